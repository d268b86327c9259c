"""Files that were made to mislead, each wrong in one way: the checksum is right wherever it is not the point.

``CASES`` maps the sentence of what is wrong to the bytes of the file and what the error has to say. All are for the
model of :func:`model`.
"""

import copy
import hashlib
import io
import json
import pickle
import struct
import zlib

import torch
from torch import nn

DOCUMENT = {
    "components": [["0.weight", "spectral", [["F16", 5]], {"kept": 5, "shape": [4, 2, 3, 3]}]],
    "tensors": [["0.bias", "F16", [4]], ["1.num_batches_tracked", "I64", []], ["2", "BOOL", [2]]],
}
FLATS = {"I64": struct.pack("<q", 3), "F16": struct.pack("<9e", *range(9)), "BOOL": b"\1\0"}
ORDER = ["I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "structure", "BOOL"]
SIZES = {"I64": 8, "F64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class Model(nn.Sequential):
    """Entries 0.weight, 0.bias, 1.num_batches_tracked and 2."""

    def __init__(self):
        super().__init__(nn.Conv2d(2, 4, 3), nn.Identity())
        self[1].register_buffer("num_batches_tracked", torch.tensor(1))
        self.register_buffer("2", torch.tensor([False, True]))


def model():
    torch.manual_seed(5)
    return Model()


def deflate(data):
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(data) + deflater.flush()


def file(document=None, flats=None, *, text=None, deflated=None, change=None, note=None, raw_header=None):
    """A file, right but for what is given.

    Args:
        document, flats: The parsed document and the bytes of the flat tensors.
        text, deflated: The document's bytes, before and after deflating.
        change: Function that spoils the parsed header.
        note: The metadata's entry, in place of format and checksum.
        raw_header: The header's bytes.
    """
    flats = dict(FLATS if flats is None else flats)
    if text is None:
        text = json.dumps(DOCUMENT if document is None else document).encode()
    flats["structure"] = deflate(text) if deflated is None else deflated
    ordered = {name: flats[name] for name in ORDER if name in flats} | flats
    body = b"".join(ordered.values())
    header = {"__metadata__": {"spectrim": note or f"1 {hashlib.sha256(body).hexdigest()[:16]}"}}
    start = 0
    for name, data in ordered.items():
        dtype = "U8" if name == "structure" else name
        shape = [len(data) // SIZES.get(dtype, 1)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + len(data)]}
        start += len(data)
    if change:
        change(header)
    front = json.dumps(header).encode() if raw_header is None else raw_header
    front += b" " * (-len(front) % 8)
    return struct.pack("<Q", len(front)) + front + body


def edited(*path, value):
    """A file whose document has another value at one place."""
    document = copy.deepcopy(DOCUMENT)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return file(document)


def spoiled(change):
    """A file whose header was changed."""
    return file(change=change)


def entry(name, **values):
    return spoiled(lambda header: header[name].update(values))


def without(document, name):
    return {key: value for key, value in document.items() if key != name}


def pickled():
    buffer = io.BytesIO()
    torch.save({"0.weight": torch.zeros(4, 2, 3, 3)}, buffer)
    return buffer.getvalue()


FILE = file()
HEADER = 8 + struct.unpack("<Q", FILE[:8])[0]
BIAS = DOCUMENT["tensors"][0]
CODED = DOCUMENT["components"][0]
NAN = struct.pack("<9e", 0, 1, 2, float("nan"), 4, 5, 6, 7, 8)
INFINITE = struct.pack("<9e", 0, 1, 2, 3, 4, 5, float("-inf"), 7, 8)

CASES = {
    # -- the frame
    "empty": (b"", "the header claims 0 bytes, the file has 0"),
    "seven bytes": (FILE[:7], "cut off or no safetensors file"),
    "only a length": (FILE[:8], "the header claims .* the file has 0 behind"),
    "absurd header length": (struct.pack("<Q", 2**64 - 1) + FILE[8:], "claims 18,446,744,073,709,551,615 bytes"),
    "header length past the end": (struct.pack("<Q", len(FILE) - 7) + FILE[8:], "header claims"),
    "header length of a large model": (struct.pack("<Q", 1 << 17) + b" " * (1 << 18), "an artifact's has at most 65,536"),
    "text": (b"this is no model, it is a sentence about one", "no safetensors file"),
    "a checkpoint of torch.save": (pickled(), "a pickled checkpoint, which is a program"),
    "a bare pickle": (pickle.dumps({"a": 1}), "a pickled checkpoint|header claims"),
    "header that is no JSON": (file(raw_header=b"{'a': 1}"), "the header is no JSON"),
    "header that is a list": (file(raw_header=b"[]"), "the header is no JSON object"),
    "header that is not UTF-8": (file(raw_header=b'{"\xff": 1}'), "the header is no JSON"),
    "deeply nested header": (file(raw_header=b"[" * 60_000), "the header nests deeper than 16"),
    "names twice in the header": (file(raw_header=b'{"__metadata__": {}, "__metadata__": {}}'), "is there twice"),
    "a number too long to parse": (file(raw_header=b'{"a": ' + b"9" * 5000 + b"}"), "the header is no JSON"),
    "no metadata": (spoiled(lambda h: h.pop("__metadata__")), "a safetensors file perhaps, but not one of spectrim's"),
    "metadata of somebody else": (spoiled(lambda h: h.update(__metadata__={"format": "pt"})), "metadata has no 'spectrim'"),
    "metadata that is a list": (spoiled(lambda h: h.update(__metadata__=[])), "metadata has no 'spectrim'"),
    "metadata that is a number": (spoiled(lambda h: h.update(__metadata__={"spectrim": 1})), "metadata has no 'spectrim'"),
    "later format": (file(note="2 0123456789abcdef"), "has format '2', this version of spectrim reads 1"),
    "no format": (file(note="x"), "has format 'x'"),
    "wrong checksum": (file(note="1 0123456789abcdef"), "checksum is '0123456789abcdef', the content has"),
    "no checksum": (file(note="1"), "checksum is ''"),
    # -- the flat tensors
    "overlapping tensors": (entry("F16", data_offsets=[0, 18]), "'F16' begins at 0 instead of 8: an overlap"),
    "one tensor inside another": (
        spoiled(lambda h: h["structure"].update(shape=[10], data_offsets=[8, 18])), "an overlap|a hole",
    ),
    "a hole": (
        spoiled(lambda h: h["F16"].update(shape=[8], data_offsets=[10, 26])), "'F16' begins at 10 instead of 8: a hole",
    ),
    "something behind the end": (FILE + b"\0", "there is something behind them"),
    "offsets past the end": (entry("BOOL", shape=[9], data_offsets=[0, 1 << 40]), "'BOOL' has 9 numbers"),
    "offsets backwards": (entry("F16", data_offsets=[26, 8]), "'F16' has 9 numbers of 2 bytes at 26 to 8"),
    "negative offsets": (entry("F16", data_offsets=[-8, 10]), "'F16' needs one side and two offsets, whole and not neg"),
    "a shape that overflows": (entry("F16", shape=[1 << 63]), "'F16' has 9223372036854775808 numbers"),
    "a negative shape in the header": (entry("F16", shape=[-9]), "'F16' needs one side"),
    "a shape of floats in the header": (entry("F16", shape=[9.0]), "'F16' needs one side"),
    "a shape of booleans in the header": (entry("BOOL", shape=[True]), "'BOOL' needs one side"),
    "two sides in the header": (entry("F16", shape=[3, 3]), "'F16' needs one side"),
    "a flat tensor of an unknown dtype": (entry("F16", dtype="F12"), "'F16' has an unknown dtype"),
    "a flat tensor of a dtype that is no string": (entry("F16", dtype=["F16"]), "'F16' has an unknown dtype"),
    "a flat tensor of another dtype": (entry("F16", dtype="BF16"), "needs a tensor 'F16' of type F16"),
    "a header entry that is a list": (spoiled(lambda h: h.update(F16=[])), "'F16' needs dtype, shape and data_offsets"),
    "a header entry with more": (entry("F16", pickle="x"), "'F16' needs dtype, shape and data_offsets and nothing else"),
    "no structure": (spoiled(lambda h: h.update(U8=h.pop("structure"))), "the tensor 'structure' is missing"),
    "a tensor of no entry": (file(flats=FLATS | {"F32": b"\0" * 8}), "'F32' is in the file, but no entry"),
    "a tensor with a name like a path": (file(flats=FLATS | {"../../etc/passwd": b""}), "unknown dtype"),
    "too few numbers": (file(flats=FLATS | {"F16": bytes(16)}), "entries of type F16 take 18 bytes.*16: '0.bias' does not"),
    "far too few numbers": (file(flats=FLATS | {"F16": bytes(8)}), "entries of type F16.*8: '0.weight' does not fit"),
    "too many numbers": (file(flats=FLATS | {"F16": bytes(20)}), "entries of type F16 take 18 bytes.*20: '0.bias'"),
    "NaN in a code": (file(flats=FLATS | {"F16": NAN}), "'0.weight' holds 1 numbers that are NaN or infinite"),
    "infinity in a tensor": (file(flats=FLATS | {"F16": INFINITE}), "'0.bias' holds 1 numbers that are NaN or infinite"),
    "a boolean that is neither": (file(flats=FLATS | {"BOOL": b"\1\2"}), "'2' holds a byte that is neither false nor true"),
    # -- the document
    "document that does not inflate": (file(deflated=b"\xff\xff\xff"), "'structure' does not inflate"),
    "document cut off": (file(deflated=deflate(json.dumps(DOCUMENT).encode())[:-4]), "'structure' is cut off"),
    "no document": (file(deflated=b""), "'structure' is cut off"),
    "two documents": (file(deflated=deflate(b"{}") * 2), "'structure' is cut off or longer"),
    "a bomb": (file(deflated=deflate(bytes(1 << 25))), "'structure' inflates to more than 16,777,216 bytes"),
    "document that is no JSON": (file(text=b"import os"), "the document is no JSON"),
    "document that is not UTF-8": (file(text=b'"\xff"'), "the document is no JSON"),
    "document that is a string": (file(text=b'"x"'), "the document should be an object, found 'x'"),
    "document with NaN": (file(text=b'{"provenance": {"a": NaN}}'), "NaN is no number of JSON"),
    "document with a name twice": (file(text=b'{"tensors": [], "tensors": []}'), "'tensors' is there twice"),
    "deeply nested document": (file(text=b'{"provenance":' + b'{"a":' * 9999 + b"1" + b"}" * 10000), "nests deeper than 16"),
    "deep nesting behind an escaped quote": (file(text=b'{"a\\"": "\\\\", "b": ' + b"[" * 99), "nests deeper than 16"),
    "document with an unknown entry": (file(DOCUMENT | {"hooks": []}), "has an entry 'hooks', which format 1"),
    "components that are an object": (file(DOCUMENT | {"components": {}}), "components should be a list, found {}"),
    "a component of three columns": (edited("components", 0, value=CODED[:3]), r"components\[0\] should be \[path, kind"),
    "a component that is a string": (edited("components", 0, value="abcd"), r"components\[0\] should be \[path, kind"),
    "a tensor of two columns": (edited("tensors", 0, value=BIAS[:2]), r"tensors\[0\] should be \[name, dtype, shape\]"),
    "an unknown kind": (edited("components", 0, 1, value="spectral2"), "'0.weight' is of the kind 'spectral2', this version"),
    "a kind that is a number": (edited("components", 0, 1, value=1), "'0.weight' should name a kind, found 1"),
    "a kind that names a class": (edited("components", 0, 1, value="os.system"), "kind 'os.system', this version"),
    "a layer with numbers of its own": (
        edited("components", 0, 1, value="spectral-factored-conv"), "'0.weight' of the kind .* has 1 parts",
    ),
    "a codec without numbers": (
        file(DOCUMENT | {"components": [["0.weight", "spectral", [], {}]]}, FLATS | {"F16": bytes(8)}), "'0.weight' .* has 0 parts",
    ),
    "an unknown element type": (edited("tensors", 0, 1, value="F12"), "'0.bias' has the unknown element type 'F12'"),
    "an element type that is a list": (edited("tensors", 0, 1, value=["F16"]), "'0.bias' has the unknown element type"),
    "a spec that is a list": (edited("components", 0, 3, value=[]), r"'0.weight': the spec should be an object, found \[\]"),
    "a spec that asks for more than it has": (
        edited("components", 0, 3, "kept", value=6), "'0.weight'.*asks for 6 numbers, the file has 5",
    ),
    "more kept than there are": (edited("components", 0, 3, "kept", value=73), r"'0.weight'.*\[1, 72\], got 73"),
    "nothing kept": (edited("components", 0, 3, "kept", value=0), "'0.weight'.*got 0"),
    "a negative count": (edited("components", 0, 3, "kept", value=-1), "'0.weight'.*got -1"),
    "half a count": (edited("components", 0, 3, "kept", value=2.5), "'0.weight'.*got 2.5"),
    "a count that is true": (edited("components", 0, 3, "kept", value=True), "'0.weight'.*got True"),
    "a spec with more": (edited("components", 0, 3, "code", value="x"), "'0.weight'.*no 'code'"),
    "a spec without a shape": (edited("components", 0, 3, value={"kept": 5}), "'0.weight' has the shape None in the file"),
    "an absurd shape in a spec": (
        edited("components", 0, 3, "shape", value=[1 << 40, 1 << 40]), r"'0.weight' has the shape \[1099511627776",
    ),
    "an unknown order": (edited("components", 0, 3, "order", value="sorted"), "'0.weight'.*unknown order 'sorted'"),
    "an order that is a list": (edited("components", 0, 3, "order", value=["linf"]), "'0.weight'.*unknown order"),
    "parts that are an object": (edited("components", 0, 2, value={}), "'0.weight' should list its parts"),
    "a part of one column": (edited("components", 0, 2, 0, value=["F16"]), "'0.weight': a part should be"),
    "a part of an absurd length": (edited("components", 0, 2, 0, 1, value=1 << 60), "'0.weight' has a side that is no"),
    "a part that is too long": (edited("components", 0, 2, 0, 1, value=1 << 40), "'0.weight' does not fit"),
    "a shape whose product overflows": (edited("tensors", 0, 2, value=[1 << 40, 1 << 40]), "'0.bias' does not fit"),
    "an empty tensor with an absurd side": (edited("tensors", 0, 2, value=[0, 1 << 47]), "F16 take 10 bytes"),
    "a negative shape": (edited("tensors", 0, 2, value=[-4]), "'0.bias' has a side that is no count of elements: -4"),
    "two negative sides": (edited("tensors", 0, 2, value=[-2, -2]), "'0.bias' has a side that is no count"),
    "a shape of floats": (edited("tensors", 0, 2, value=[4.0]), "'0.bias' has a side that is no count of elements: 4.0"),
    "a shape of booleans": (edited("tensors", 0, 2, value=[4, True]), "'0.bias' has a side that is no count of elements: True"),
    "a shape of strings": (edited("tensors", 0, 2, value=["4"]), "'0.bias' has a side that is no count of elements: '4'"),
    "a shape that is a number": (edited("tensors", 0, 2, value=4), "'0.bias' should have a shape"),
    "too many sides": (edited("tensors", 0, 2, value=[4] + [1] * 16), "'0.bias' should have a shape of at most 16 sides"),
    "another shape of the same size": (edited("tensors", 0, 2, value=[2, 2]), r"'0.bias' has the shape \[2, 2\] in the file"),
    "a tensor twice": (file(DOCUMENT | {"tensors": [*DOCUMENT["tensors"], BIAS]}), "tensors: '0.bias' is there twice"),
    "a component twice": (file(DOCUMENT | {"components": [CODED, CODED]}), "components: '0.weight' is there twice"),
    "a tensor coded and plain": (edited("tensors", 0, value=["0.weight", "F16", [4]]), "'0.weight' is there twice, coded and"),
    "a name like a path": (edited("tensors", 0, 0, value="../../etc/passwd"), "'../../etc/passwd', which no module can have"),
    "a name like an absolute path": (edited("tensors", 0, 0, value="/etc/passwd"), "'/etc/passwd', which no module can have"),
    "a name like a path of Windows": (edited("tensors", 0, 0, value="\\\\host\\x"), "which no module can have"),
    "a name with an empty step": (edited("tensors", 0, 0, value="0..bias"), "'0..bias', which no module can have"),
    "a name with a control character": (edited("tensors", 0, 0, value="0.bias\n"), r"tensors\[0\] should be named by"),
    "a name with half a character": (edited("tensors", 0, 0, value="\ud800"), r"tensors\[0\] should be named by"),
    "an empty name": (edited("tensors", 0, 0, value=""), r"tensors\[0\] should be named by"),
    "an endless name": (edited("tensors", 0, 0, value="x" * 2000), r"tensors\[0\] should be named by 1 to 1024"),
    "a name that is a number": (edited("components", 0, 0, value=7), r"components\[0\] should be named by"),
    "a name that reaches into Python": (edited("tensors", 0, 0, value="__class__.__init__"), "'__class__.__init__'"),
    "a tie to nothing": (file(DOCUMENT | {"ties": {"3.bias": "4.bias"}}), "ties: '3.bias' is tied with '4.bias'"),
    "a tie with itself": (file(DOCUMENT | {"ties": {"0.bias": "0.bias"}}), "ties: '0.bias' is tied with '0.bias'"),
    "a tie of an unknown name": (file(DOCUMENT | {"ties": {"3.bias": "0.bias"}}), "the file holds '3.bias'"),
    "a tie of two shapes": (file(without(DOCUMENT, "") | {"ties": {"1.bias": "0.bias"}}), "the file holds '1.bias'"),
    "ties that are a list": (file(DOCUMENT | {"ties": ["0.bias"]}), "ties should be an object"),
    "unknown norms": (file(DOCUMENT | {"norms": "gone"}), "norms should be 'folded' or left out, found 'gone'"),
    "a provenance that is a list": (file(DOCUMENT | {"provenance": []}), "provenance should be an object"),
    "nothing for the model": (file({}, {}), "Model needs '2' and 3 more"),
    "a layer that asks for the world": (
        file(
            {
                "components": [
                    [
                        "0", "spectral-factored-conv", [],
                        {
                            "in": 1 << 40, "out": 1 << 40, "core": [1 << 20, 1 << 20, 3, 3], "bias": True, "norm": "ortho",
                            "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1],
                        },
                    ]
                ]
            },
            {},
        ),
        "'0' of the kind 'spectral-factored-conv' is refused: .*",
    ),
    "a layer in the place of the model": (
        file({"components": [["nowhere", "spectral-factored-linear", [], {}]]}, {}), "'nowhere' is a spectral-factored-linear",
    ),
}  # fmt: skip
