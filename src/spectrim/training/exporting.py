"""A network as an ONNX file that is checked before it is kept."""

from pathlib import Path

import torch
from torch import Tensor, nn

import spectrim
from spectrim.artifact.writer import write_atomically
from spectrim.errors import SpectrimError, UnsupportedError, first_line
from spectrim.measure.choice import Choice
from spectrim.measure.onnx_forms import quiet
from spectrim.training import extras

_TOLERANCE = 1e-3  # of the largest output; float32 through other kernels


def export_onnx(model: nn.Module, example: Tensor, out: Path, choices: list[Choice] | None = None) -> float:
    """Write a network with its weights into one ONNX file that takes batches of any size.

    Banded pointwise convolutions and reconstructed filters get the form that is fastest in onnxruntime, see :func:`spectrim.finalize_`.

    Args:
        model: Finalized first where tensors are still coded.
        example: One input.
        out: Where; replaced once the new file has been run in onnxruntime.
        choices: Gets what was measured of these.

    Returns:
        The largest absolute difference between onnxruntime and torch.

    Raises:
        UnsupportedError: A library is missing, or torch cannot export the network.
        SpectrimError: onnxruntime computes something else.
        ArtifactError: The file cannot be written.
    """
    for library in ("onnx", "onnxscript"):
        extras.load(library, extra="onnx", purpose="an ONNX file")
    runtime = extras.load("onnxruntime", extra="onnx", purpose="checking an ONNX file")
    model = spectrim.finalize_(model, example=example, runtime="onnxruntime", choices=choices).eval()
    two = torch.cat([example, example.flip(-1)])  # a batch of one would be taken for a constant
    with quiet():
        try:
            program = torch.onnx.export(
                model,
                (two,),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        except Exception as error:
            reason = first_line(error)
            raise UnsupportedError(f"torch cannot export {type(model).__name__} to ONNX: {reason}") from error
    assert program is not None  # noqa: S101  # with dynamo=True there is one
    data = program.model_proto.SerializeToString()
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = 0.0
    for batch in (two, torch.cat([two, two.flip(-2)])):
        (found,) = session.run(None, {"images": batch.numpy()})
        with torch.no_grad():
            expected = model(batch)
        difference = max(difference, float((torch.from_numpy(found) - expected).abs().max()))
        scale = max(1.0, float(expected.abs().max()))
        if not difference <= _TOLERANCE * scale:
            raise SpectrimError(
                f"onnxruntime computes something else than torch: outputs of up to {scale:.2g} differ by "
                f"{difference:.2g}. No file was written."
            )
    write_atomically(out, [data])
    return difference
