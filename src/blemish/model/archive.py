"""The .blemish file: a zip whose parts are stored as they are, each with its SHA-256.

    manifest.json         what the model is, in words; the digest and length of every other part
    graph.onnx            pixels to pred_score and anomaly_map
    calibration.json      scores of good images, thresholds, heat scale
    weights.safetensors   what is needed to go on training

The zip comment holds the digest of the manifest. Digests tell damage and tampering by accident or by others'
tools; they are no signature. Nothing in the file is ever executed or unpickled.
"""

import hashlib
import json
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from blemish.errors import ModelFileError, OutputError, SchemaError

SCHEMA = 1
MANIFEST = "manifest.json"
PARTS = ("graph.onnx", "calibration.json", "weights.safetensors")
LARGEST = 4 << 30
"""A part beyond this is refused before it is read."""


@dataclass(frozen=True, slots=True)
class Archive:
    manifest: dict[str, Any]
    graph: bytes
    calibration: dict[str, Any]
    weights: bytes

    def write(self, path: Path) -> None:
        """All or nothing: a reader sees the old file or the whole new one, even if we are killed midway."""
        parts = dict(zip(PARTS, (self.graph, _json(self.calibration), self.weights), strict=True))
        if (longest := max(map(len, parts.values()))) > LARGEST:
            raise OutputError(
                f"{path} would hold a part of {longest} bytes: fit with a smaller memory budget."
            )
        told = {name: _told(data) for name, data in parts.items()}
        manifest = _json({**self.manifest, "schema": SCHEMA, "parts": told})
        target = path.resolve()  # a link stays one, and what it leads to is written
        temporary = target.with_name(f".{uuid4().hex}.part")
        try:
            with temporary.open("xb") as file:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    archive.comment = _seal(manifest)
                    for name, data in {MANIFEST: manifest, **parts}.items():
                        info = zipfile.ZipInfo(name)  # same date, same system: same model, same bytes
                        info.create_system = 3
                        archive.writestr(info, data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): make room or choose another place with --out."
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    @classmethod
    def read(cls, path: Path) -> "Archive":
        try:
            with zipfile.ZipFile(path) as archive:
                return cls._open(path, archive)
        except ModelFileError:
            raise
        except FileNotFoundError as error:
            raise ModelFileError(
                f"The model file {path} does not exist: check the path, or fit one first."
            ) from error
        except OSError as error:
            raise ModelFileError(
                f"{path} cannot be read ({error.strerror or error}): give a file that you may read."
            ) from error
        except Exception as error:  # zipfile, its codecs and json meet damage with a dozen kinds of exception
            raise ModelFileError(
                f"{path} is not a whole .blemish file ({error}): copy it again or fit the model anew."
            ) from error

    @classmethod
    def _open(cls, path: Path, archive: zipfile.ZipFile) -> "Archive":
        infos = {info.filename: info for info in archive.infolist()}
        if MANIFEST not in infos:
            raise ModelFileError(
                f"{path} is a zip without {MANIFEST}, so no .blemish file: give one that blemish wrote."
            )
        sealed = _stored(archive, infos[MANIFEST])
        manifest = _parsed(sealed)
        schema = manifest.get("schema")
        if type(schema) is not int or schema < 1:
            raise ValueError(f"schema {schema!r}")
        if schema > SCHEMA:  # first, since a newer version may seal its files in another way
            raise SchemaError(
                f"{path} was written by a newer blemish (schema {schema}, this one reads up to {SCHEMA}): "
                "upgrade blemish."
            )
        if archive.comment != _seal(sealed):
            raise ValueError(f"{MANIFEST} is not as it was written")
        if unexpected := sorted(set(infos) - {MANIFEST, *PARTS}):
            raise ModelFileError(
                f"{path} holds {unexpected[0]!r}, which no .blemish file does: do not use it."
            )
        if len(archive.infolist()) != 1 + len(PARTS):
            raise ValueError("parts are missing or there twice")
        parts = {name: _stored(archive, infos[name]) for name in PARTS}
        for name, data in parts.items():
            if manifest["parts"][name] != _told(data):
                raise ValueError(f"{name} is not as it was written")
        return cls(
            manifest, parts["graph.onnx"], _parsed(parts["calibration.json"]), parts["weights.safetensors"]
        )


def _stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Never decompressed: so no part can be larger than the file that holds it."""
    stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
    if not stored or info.file_size > LARGEST:
        raise ValueError(f"{info.filename} is compressed or too large")
    return archive.read(info)


def _told(part: bytes) -> dict[str, Any]:
    """What the manifest says of a part."""
    return {"sha256": hashlib.sha256(part).hexdigest(), "bytes": len(part)}


def _seal(manifest: bytes) -> bytes:
    return f"blemish {SCHEMA} sha256:{hashlib.sha256(manifest).hexdigest()}".encode()


def _json(fields: dict[str, Any]) -> bytes:
    # In ASCII, since the name of a picture may hold what UTF-8 cannot.
    return json.dumps(fields, indent=1, sort_keys=True, allow_nan=False).encode()


def _parsed(data: bytes) -> dict[str, Any]:
    fields = json.loads(data, parse_constant=int)  # which refuses NaN and Infinity
    if not isinstance(fields, dict):
        raise ValueError("its JSON is not an object")
    return fields
