"""``python -m spectrim``, which ``torchrun -m spectrim`` starts in each process."""

from spectrim.cli import main

if __name__ == "__main__":
    main()
