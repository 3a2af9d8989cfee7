import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.errors import BlemishError, ModelFileError, OutputError, SchemaError
from blemish.model import Inspector
from blemish.model.archive import LARGEST, MANIFEST, PARTS, SCHEMA, Archive
from tests.model import toy

SMALL = Archive({"method": "é", "n": 3}, b"graph" * 9, {"scores": [0.1, 1e-300]}, b"weights")
ANY_TEXT = st.text(st.characters())  # with the lone surrogates of file names that are no UTF-8
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(ANY_TEXT.filter(lambda key: key not in ("schema", "parts")), JSON, max_size=4)
Members = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models") / "toy.blemish"


def members_of(archive: Archive) -> dict[str, bytes]:
    return {
        "graph.onnx": archive.graph,
        "calibration.json": json.dumps(archive.calibration).encode(),
        "weights.safetensors": archive.weights,
    }


def forge(
    path: Path,
    parts: dict[str, bytes],
    *,
    manifest: Callable[[dict[str, Any]], Any] = lambda fields: fields,
    more: Members | None = None,
    how: int = zipfile.ZIP_STORED,
    seal: str = f"blemish {SCHEMA} sha256:",
) -> Path:
    """A file whose digests are all in order: what someone writes who knows the format."""
    told = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in parts.items()
    }
    text = json.dumps(manifest({"schema": SCHEMA, "parts": told})).encode()
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in [(MANIFEST, text), *parts.items(), *(more or [])]:
            file.writestr(zipfile.ZipInfo(name), data, compress_type=how)
        file.comment = f"{seal}{hashlib.sha256(text).hexdigest()}".encode()
    return path


def refusal(path: Path, kind: type[BlemishError] = ModelFileError) -> str:
    """The sentence with which the file is refused: of just this kind, naming the file, with a remedy."""
    with pytest.raises(BlemishError) as caught:
        Archive.read(path)
    sentence = str(caught.value)
    assert type(caught.value) is kind
    assert path.name in sentence
    assert any(word in sentence for word in ("fit", "copy", "check", "give", "do not use", "upgrade")), (
        sentence
    )
    return sentence


def refused(path: Path) -> bool:
    try:
        Archive.read(path)
    except ModelFileError as error:
        return path.name in str(error)
    return False


@settings(max_examples=40, deadline=None)
@given(manifest=FIELDS, calibration=FIELDS, graph=st.binary(max_size=99), weights=st.binary(max_size=99))
def test_round_trip(
    place: Path, manifest: dict[str, Any], calibration: dict[str, Any], graph: bytes, weights: bytes
) -> None:
    Archive(manifest, graph, calibration, weights).write(place)
    first = place.read_bytes()
    read = Archive.read(place)
    assert (read.graph, read.calibration, read.weights) == (graph, calibration, weights)
    assert {key: read.manifest[key] for key in manifest} == manifest
    assert read.manifest.keys() - manifest.keys() == {"schema", "parts"}
    read.write(place)
    assert place.read_bytes() == first


def test_any_zip_reader_can_open_it(place: Path) -> None:
    SMALL.write(place)
    with zipfile.ZipFile(place) as file:
        assert file.testzip() is None
        assert file.namelist() == [MANIFEST, *PARTS]
        assert file.read("graph.onnx") == SMALL.graph
        assert json.loads(file.read(MANIFEST))["parts"]["weights.safetensors"] == {
            "bytes": 7,
            "sha256": hashlib.sha256(b"weights").hexdigest(),
        }


def test_every_flipped_byte_is_seen(place: Path) -> None:
    SMALL.write(place)
    whole, expected = place.read_bytes(), Archive.read(place)
    unseen = set()
    for at in range(len(whole)):
        for mask in (0xFF, 1 << at % 8):
            place.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            if not refused(place):
                assert Archive.read(place) == expected  # a field of the zip's own, such as a date
                unseen.add(at)
    contents = [SMALL.graph, SMALL.weights, b'"scores"', b'"schema"', b"blemish 1 sha256:"]
    for content in contents:
        at = whole.index(content)
        assert not unseen & set(range(at, at + len(content)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_never_another_exception(place: Path, data: st.DataObject) -> None:
    SMALL.write(place)
    whole, expected = place.read_bytes(), Archive.read(place)
    begin = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(begin, min(begin + 40, len(whole))))
    place.write_bytes(whole[:begin] + data.draw(st.binary(max_size=40)) + whole[end:])
    assert refused(place) or Archive.read(place) == expected


def test_cut_off_anywhere(place: Path) -> None:
    SMALL.write(place)
    whole = place.read_bytes()
    for length in range(len(whole)):
        place.write_bytes(whole[:length])
        assert "copy" in refusal(place)


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    assert "not a whole .blemish file" in refusal(tmp_path / "picture.png")
    assert "does not exist: check the path" in refusal(tmp_path / "missing.blemish")
    assert "directory" in refusal(tmp_path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    assert "is a zip without manifest.json" in refusal(tmp_path / "other.zip")


@pytest.mark.parametrize("name", PARTS)
def test_changed_part(place: Path, name: str) -> None:
    parts = members_of(SMALL)
    told = parts | {name: parts[name][:-1] + bytes([parts[name][-1] ^ 1])}
    forge(place, told)
    with zipfile.ZipFile(place) as file:
        text, comment = file.read(MANIFEST), file.comment
    with zipfile.ZipFile(place, "w") as file:
        file.comment = comment
        for member, data in {MANIFEST: text, **parts}.items():
            file.writestr(member, data)
    assert f"({name} is not as it was written)" in refusal(place)


def test_changed_manifest(place: Path) -> None:
    forge(place, members_of(SMALL), seal=f"blemish {SCHEMA} sha256:0")
    assert "(manifest.json is not as it was written)" in refusal(place)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "weights.pkl", "graph.onnx/", ""])
def test_foreign_part(tmp_path: Path, name: str) -> None:
    path = forge(tmp_path / "toy.blemish", members_of(SMALL), more=[(name, b"")])
    assert f"holds {name!r}" in refusal(path)
    assert os.listdir(tmp_path) == ["toy.blemish"]  # noqa: PTH208


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [MANIFEST, *PARTS])
def test_part_twice_or_missing(place: Path, name: str) -> None:
    parts = members_of(SMALL)
    forge(place, parts, more=[(name, parts.get(name, b"{}"))])
    refusal(place)
    if name != MANIFEST:
        forge(place, {member: data for member, data in parts.items() if member != name})
        assert "missing" in refusal(place)


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_nothing_is_decompressed(place: Path, how: int) -> None:
    forge(place, members_of(SMALL) | {"weights.safetensors": bytes(1 << 26)}, how=how)
    assert "compressed" in refusal(place)


def test_compressed_to_the_very_same_size(place: Path) -> None:
    noise = hashlib.sha256(b"noise").digest()
    weights = next(
        data for n in range(99) if len(zlib.compress(data := noise + bytes(n), wbits=-15)) == len(data)
    )
    forge(place, members_of(SMALL) | {"weights.safetensors": weights})
    assert Archive.read(place).weights == weights
    with zipfile.ZipFile(place) as file:
        members, comment = [(name, file.read(name)) for name in file.namelist()], file.comment
    with zipfile.ZipFile(place, "w") as file:
        file.comment = comment
        for name, data in members:
            file.writestr(name, data, zipfile.ZIP_DEFLATED if data == weights else zipfile.ZIP_STORED)
    assert "weights.safetensors is compressed" in refusal(place)


def test_size_that_is_only_claimed(place: Path) -> None:
    SMALL.write(place)
    whole = place.read_bytes()
    at = whole.rindex(b"PK\x01\x02")  # the directory's entry for the weights: sizes at 20 and 24
    for claim in (8, 1 << 31, 0xFFFFFFFE):
        size = claim.to_bytes(4, "little")
        for sizes in (size * 2, whole[at + 20 : at + 24] + size):
            place.write_bytes(whole[: at + 20] + sizes + whole[at + 28 :])
            refusal(place)


def test_part_too_large_to_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"toy\.blemish would hold a part of \d+ bytes: fit"):
        Archive({}, b"", {}, bytes(LARGEST + 1)).write(tmp_path / "toy.blemish")
    assert not list(tmp_path.iterdir())


def test_newer_schema(place: Path) -> None:
    parts = members_of(SMALL)
    forge(
        place,
        parts,
        manifest=lambda fields: fields | {"schema": SCHEMA + 1, "parts": "elsewhere"},
        more=[("new", b"")],
        seal="sealed in another way ",
    )
    assert refusal(place, SchemaError).endswith("(schema 2, this one reads up to 1): upgrade blemish.")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "x"},
        {"schema": None},
        {"schema": 0},
        {"schema": 1.0},
        {"schema": True},
        {"schema": [1]},
        {"parts": None},
        {"parts": []},
        {"parts": {}},
        {"parts": dict.fromkeys(PARTS, 7)},
        {"parts": {name: {"sha256": "0", "bytes": -1} for name in PARTS}},
        {"facts": math.nan},
    ],
    ids=str,
)
def test_manifest_of_the_wrong_shape(place: Path, change: dict[str, Any]) -> None:
    refusal(forge(place, members_of(SMALL), manifest=lambda fields: fields | change))


@pytest.mark.parametrize("manifest", [[], "schema", 1, None])
def test_manifest_that_is_no_object(place: Path, manifest: Any) -> None:
    refusal(forge(place, members_of(SMALL), manifest=lambda _: manifest))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"7", b"\xff\xfe", b'{"scores": [NaN]}', b'{"a": Infinity}', b"[" * 200_000]
)
def test_calibration_that_is_no_json_object(place: Path, text: bytes) -> None:
    refusal(forge(place, members_of(SMALL) | {"calibration.json": text}))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("calibration", {"threshold": "high"}),
        ("calibration", {"threshold": 1e999}),
        ("calibration", {"threshold": None}),
        ("calibration", {"scores": [0.2, 0.1]}),
        ("calibration", {"scores": 7}),
        ("calibration", {"review_threshold": 1e6}),
        ("calibration", {"heat_high": -1e6}),
        ("calibration", {"false_reject": 0.0}),
        ("calibration", {"unheard_of": 1}),
        ("manifest", {"size": [0, 32]}),
        ("manifest", {"size": "24"}),
        ("manifest", {"size": [24.0, 32.0]}),
        ("manifest", {"size": [24]}),
        ("manifest", {"format": {"dtype": "uint8"}}),
        ("manifest", {"format": None}),
    ],
    ids=str,
)
def test_fields_that_describe_no_model(place: Path, part: str, change: dict[str, Any]) -> None:
    model = toy.archive()
    fields = {"manifest": model.manifest, "calibration": model.calibration}
    fields[part] = fields[part] | change
    parts = members_of(Archive({}, model.graph, fields["calibration"], b""))
    parts["calibration.json"] = parts["calibration.json"].replace(b"Infinity", b"1e999")
    forge(place, parts, manifest=lambda told: fields["manifest"] | told)
    with pytest.raises(ModelFileError, match=r"^toy\.blemish does not describe a model .*: fit it anew\.$"):
        Inspector.load(place)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing/a.blemish", tmp_path / "file/a.blemish", tmp_path / "folder"):
        with pytest.raises(OutputError, match=f"{path.name} cannot be written .*: make room or choose"):
            SMALL.write(path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        SMALL.write(tmp_path / "old.blemish")
    finally:
        os.umask(umask)
    old = tmp_path / "old.blemish"
    assert old.stat().st_mode & 0o777 == 0o640
    old.chmod(0)
    tmp_path.chmod(0o555)
    script = """
import os, sys
from pathlib import Path
from blemish.errors import BlemishError
from blemish.model.archive import Archive
os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
for attempt in (Archive.read, Archive({}, b"", {}, b"").write):
    try:
        attempt(Path("old.blemish"))
    except BlemishError as error:
        print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    tmp_path.chmod(0o755)
    assert ran.stdout.splitlines() == [
        "ModelFileError old.blemish cannot be read (Permission denied): give a file that you may read.",
        "OutputError old.blemish cannot be written (Permission denied): "
        "make room or choose another place with --out.",
    ]
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.skipif(os.name != "posix", reason="POSIX limits")
@pytest.mark.parametrize("limit", [10, 5_000, 100_200])
def test_no_room(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "old.blemish"
    SMALL.write(path)
    whole = path.read_bytes()
    script = f"""
import resource, sys
from pathlib import Path
from blemish.errors import OutputError
from blemish.model.archive import Archive
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    Archive({{}}, b"graph", {{}}, bytes(100_000)).write(Path(sys.argv[1]))
except OutputError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert ran.stdout == (
        f"{path} cannot be written (File too large): make room or choose another place with --out.\n"
    )
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def interrupted(process: "subprocess.Popen[str]") -> str:
    """What it says when it ends. Python drops an interrupt that comes while it cleans an object up."""
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)[1]
    raise AssertionError("It goes on whatever it is sent.")


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("delay", [0, 0.003, 0.01])
def test_interrupted(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "old.blemish"
    script = """
import signal, sys
from itertools import cycle
from pathlib import Path
from blemish.model.archive import Archive
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
for byte in cycle((b"a", b"b")):
    Archive({}, byte, {}, byte * 8_000_000).write(Path(sys.argv[1]))
"""
    with subprocess.Popen([sys.executable, "-c", script, path], stderr=subprocess.PIPE, text=True) as process:
        try:
            patience = time.monotonic() + 60
            while not (path.exists() and len(list(tmp_path.iterdir())) == 2):
                assert process.poll() is None
                assert time.monotonic() < patience
            time.sleep(delay)
            errors = interrupted(process)
        finally:
            process.kill()  # or leaving the block would wait for it for ever
    assert "KeyboardInterrupt" in errors
    read = Archive.read(path)
    assert read.weights == read.graph * 8_000_000
    assert list(tmp_path.iterdir()) == [path]


def test_opens_in_milliseconds(place: Path) -> None:
    toy.archive(weights=bytes(1_000_000)).write(place)
    took = []
    for _ in range(20):
        begin = time.perf_counter()
        model = Inspector.load(place)
        took.append(time.perf_counter() - begin)
    assert min(took) < 0.02
    assert "graph" not in vars(model)
