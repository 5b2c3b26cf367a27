"""A wheel of a distribution as it is installed here: of the very files that this program imports.

It is made without a build tool and without a network, the same bytes for the same files, so that the layer of the
image that holds it is built once.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution
from pathlib import Path

import attrs

from envoi_trace_core.errors import UsageError

MAX_BYTES = 64 * 1024 * 1024
_MOMENT = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: envoi-trace-modal\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@attrs.frozen(kw_only=True)
class Wheel:
    """A wheel in memory."""

    file_name: str
    data: bytes = attrs.field(repr=False)

    @property
    def sha256(self) -> str:
        """Of all of it, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def make_wheel(distribution: Distribution) -> Wheel:
    """A pure Python wheel of what is installed under that name.

    Raises:
        UsageError: It has compiled modules, can't be found, or is too large.
    """
    stem = f"{distribution.name.lower().replace('-', '_').replace('.', '_')}-{distribution.version}"
    files = _files(distribution)
    info = f"{stem}.dist-info"
    files[f"{info}/METADATA"] = (distribution.read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    entry_points = distribution.read_text("entry_points.txt")
    if entry_points is not None:
        files[f"{info}/entry_points.txt"] = entry_points.encode()
    files[f"{info}/RECORD"] = _record(files, info).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return Wheel(file_name=f"{stem}-py3-none-any.whl", data=packed.getvalue())


def _files(distribution: Distribution) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    size_bytes = 0
    for name, path in sorted(_modules(distribution)):
        if any(name.endswith(suffix) for suffix in EXTENSION_SUFFIXES):
            raise UsageError(
                f"{distribution.name} has compiled modules ({name}) and did not come from an index, so it can't travel",
                mend="release it to a package index, or leave that plugin out: ENVOI_TRACE_DISABLE_PLUGINS=NAME",
            )
        content = path.read_bytes()
        size_bytes += len(content)
        if size_bytes > MAX_BYTES:
            raise UsageError(
                f"{distribution.name} is too large to travel: more than {MAX_BYTES // 1024**2} MiB",
                mend="release it to a package index",
            )
        found[name] = content
    if not found:
        raise UsageError(
            f"the modules of {distribution.name} can't be found", mend=f"install {distribution.name} again"
        )
    return found


def _modules(distribution: Distribution) -> Iterator[tuple[str, Path]]:
    """Name in the wheel, and path here. An editable install lists none of its files: its entry points name them."""
    for top in sorted(_top_levels(distribution)):
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            continue
        if spec.submodule_search_locations is None:
            if spec.origin:
                yield f"{top}.py", Path(spec.origin)
            continue
        for location in spec.submodule_search_locations:
            root = Path(location)
            for path in root.rglob("*"):
                if "__pycache__" not in path.parts and path.is_file():
                    yield f"{top}/{path.relative_to(root).as_posix()}", path


def _top_levels(distribution: Distribution) -> set[str]:
    tops = {point.module.partition(".")[0] for point in distribution.entry_points if point.module}
    for file in distribution.files or ():
        first = file.parts[0]
        if len(file.parts) > 1 and first.isidentifier() and file.suffix == ".py":
            tops.add(first)
        elif len(file.parts) == 1 and file.suffix == ".py" and not first.startswith("_editable"):
            tops.add(file.stem)
    return tops


def _record(files: Mapping[str, bytes], info: str) -> str:
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{info}/RECORD,,", ""])
