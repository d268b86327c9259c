"""The small jobs that the tests run from beginning to end."""

from pathlib import Path

from spectrim.training.job import Job

EPOCHS = 2


def job(**changes):
    options = {
        "model": "tests.training.tiny:tiny", "data": "digits", "image_size": 8, "method": "frequency-regularization",
        "settings": {"keep": 0.2}, "dense_epochs": EPOCHS, "epochs": EPOCHS, "batch_size": 128, "seed": 3,
    }  # fmt: skip
    return Job(**{**options, **changes})


def artifact(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def cut(**changes):
    return job(
        **{"method": "cfdp", "settings": {"keep": 0.5, "round_to": 1}, "recipe": "short", "epochs": 1, **changes}
    )


class Killed(BaseException):
    """Nothing in the program may catch this."""
