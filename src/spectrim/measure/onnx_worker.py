"""The process that times one ONNX file; a script that :mod:`spectrim.measure.sessions` starts.

It imports neither torch nor spectrim. It prints the number of calls per round once the session is warm, then answers
every line on its standard input with the milliseconds per call of one more round.
"""

import sys
import time


def main(file: str, arrays: str, threads: int, warmup: int) -> None:
    """Load, warm up, and answer until the input ends."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    with np.load(arrays) as loaded:
        values = [loaded[name] for name in loaded.files]
    feed = {declared.name: value for declared, value in zip(session.get_inputs(), values, strict=True)}

    def round_ms(repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            session.run(None, feed)
        return (time.perf_counter() - start) * 1000 / repeats

    for _ in range(warmup):
        session.run(None, feed)
    repeats = max(1, min(10_000, round(5.0 / max(min(round_ms(1) for _ in range(3)), 1e-4))))
    print(repeats, flush=True)  # noqa: T201 - the answer
    for _ in sys.stdin:
        print(round_ms(repeats), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
