"""The command line. Commands are thin; torch is imported inside the command that needs it, so that help is instant."""

import os
import sys
import warnings

_EXTRAS = {
    "typer": "cli", "rich": "cli", "accelerate": "train", "torchmetrics": "train", "sklearn": "train", "PIL": "train",
    "matplotlib": "report", "jinja2": "report", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx",
}  # fmt: skip


def main() -> None:
    """Run the command line: what goes wrong on purpose is one sentence on standard error and exit status 2.

    A run that was asked to stop exits with 130, as programs do after Ctrl-C.
    """
    warnings.formatwarning = _sentence
    try:
        from spectrim.cli.app import app

        app(prog_name="spectrim")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        _fail(
            f"this needs the package {package!r}, which is not installed. Run: pip install 'spectrim[{_EXTRAS[package]}]'"
        )
    except KeyboardInterrupt:
        _fail("interrupted.", status=130)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}.")
    except Exception as error:
        from spectrim.cli.errors import is_expected, status_of

        if not is_expected(error):
            raise
        _fail(str(error), status=status_of(error))


_formatted = warnings.formatwarning


def _sentence(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What the library warns of, as its errors are told; the warnings of others as they are."""
    if category is UserWarning and f"{os.sep}spectrim{os.sep}" in filename:
        return f"spectrim: {message}\n"
    return _formatted(message, category, filename, lineno, line)


def _fail(sentence: str, *, status: int = 2) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first one speaks
        sys.stderr.write(f"spectrim: {sentence}\n")
    sys.exit(status)
