"""Reading files without running code, writing them whole or not at all, and one-line errors."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from types import SimpleNamespace
from typing import Any, BinaryIO

import msgspec
import numpy as np


class InputError(ValueError):
    """Input the user can mend. The message is one line: the value, the file and the mend."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. Rename it to ``path`` on success, and remove it on failure.

    First it removes the temporary files of ``path`` that killed runs left.
    Raises InputError when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    remove_leftovers(path)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the user's umask applies
            yield temporary
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):  # it was renamed, or could not be made
                temporary.unlink()


_NO_ROOM = {
    errno.ENOSPC: "no space left on the disk; free some",
    errno.EDQUOT: "no space left in the disk quota; free some",
    errno.EFBIG: "larger than the limit for files; raise the limit (ulimit -f)",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError in the with block becomes the InputError of a file that cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise InputError(f"{path}: {_NO_ROOM[error.errno]} and run the same command again") from error
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error


def remove(*paths: Path) -> None:
    """Delete the files that exist, in this order. Raises InputError for a file that cannot be deleted."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be deleted ({error.strerror}); delete it by hand") from error


def remove_leftovers(*paths: Path) -> None:
    """Delete the temporary files that killed runs left beside these files. No other run may be writing them."""
    for path in paths:
        remove(*path.parent.glob(f".{glob.escape(path.stem)}-{8 * '[a-z0-9_]'}{glob.escape(path.suffix)}"))


def require_no_folder(*paths: Path) -> None:
    """Raise InputError where a folder lies in the place of one of these files. The error names the first."""
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: is a folder in the place of an output file; move it or choose another output")


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # NumPy's own write, in C, may lose the last bytes on a full disk without an error. Python's does not.
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


GZIP, NPY, ZIP, EMPTY_ZIP = b"\x1f\x8b", b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06"  # first bytes of these files
_KINDS = {
    GZIP: "packed with gzip (unpack it first)",
    NPY: "a single array (.npy)",
    ZIP: "a zip archive, as .npz files are",
    EMPTY_ZIP: "an empty zip archive",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    **{b"\x80" + bytes([protocol]): "a pickle, which is not read because it can run code" for protocol in range(2, 6)},
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\0\0\x08": "an IDX file (put all four into a folder, named as MNIST's: train-images-idx3-ubyte, ...)",
    b"version https://git-lfs": "a pointer of Git LFS (fetch the file itself with git lfs pull)",
}


def seeming(head: bytes) -> str:
    """The kind of file by its first bytes, as the end of an error: ', it seems to be HDF5'. '' for an unknown kind."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return ", it seems to be a web page (HTML or XML), as failed downloads leave"
    kind = next((kind for start, kind in _KINDS.items() if head.startswith(start)), None)
    return f", it seems to be {kind}" if kind else ""


def load_array(path: Path) -> np.ndarray:
    """Read one .npy array. Raises InputError when it is missing, truncated or not an array file."""
    with _loaded(path, ".npy", "prepare the data first (data/prepare*.py) or mend the path") as array:
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: holds several arrays; give a file of one .npy array")
        return array


def load_archive(path: Path, names: tuple[str, ...] | None = None, largest: float = 1e99) -> dict[str, np.ndarray]:
    """Read the arrays ``names`` (all when None) of an .npz file that holds at most ``largest`` bytes when unpacked.

    Raises InputError as load_array does.
    """
    with _loaded(path, ".npz", "mend the path") as opened, opened as archive:
        if (size := sum(member.file_size for member in archive.zip.infolist())) > largest:
            raise InputError(f"{path}: holds {size:,} bytes when unpacked, more than {largest:,}; make it smaller")
        missing = sorted(set(names or ()) - set(archive.files))
        if missing:
            held = shorten(", ".join(archive.files), 200, placeholder=" ...") or "nothing"
            raise InputError(f"{path}: has no array {missing[0]!r} (it holds {held}); make it again")
        arrays = {name: archive[name] for name in names or archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns bytes for an entry that is no .npy file
            raise InputError(f"{path}: {name!r} in it is no array; make it again with numpy.savez")
    return arrays


@contextmanager
def reading(path: Path, mend: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes. An OSError in the with block becomes an InputError, whose remedy is ``mend``.

    Also raises InputError where a folder, device or pipe lies at the path. Reading a pipe may wait for ever.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: cannot be read: a folder, device or pipe lies there; give a file")
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {mend}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {mend}") from error


@contextmanager
def _loaded(path: Path, ending: str, mend: str) -> Iterator[Any]:
    """Yield the contents that NumPy reads from a file. Every error becomes an InputError, also in the with block."""
    with reading(path, mend) as file:
        try:
            with warnings.catch_warnings():  # NumPy warns of an odd header before it raises an error
                warnings.simplefilter("ignore")
                yield np.load(file, allow_pickle=False)
        except InputError:
            raise
        except Exception as error:  # zipfile, zlib, tokenize and NumPy each raise their own kinds on a damaged file
            file.seek(0)
            raise InputError(f"{path}: {_why_unreadable(ending, file.read(512), error)}") from error


def _why_unreadable(ending: str, head: bytes, error: Exception) -> str:
    """Why NumPy cannot read a file, and what to do. head: the file's first bytes."""
    starts, writer = ((ZIP, EMPTY_ZIP), "numpy.savez") if ending == ".npz" else ((NPY,), "numpy.save")
    if head.startswith(GZIP):
        with contextlib.suppress(zlib.error):
            unpacked = zlib.decompressobj(wbits=31).decompress(head, 4)
            head = unpacked if unpacked.startswith(b"\0\0\x08") else head
    if head and not head.startswith(starts):
        return f"no {ending} file{seeming(head)}; give a file that {writer} wrote"
    if "allow_pickle" in str(error):
        return "holds Python objects, which are not read because they can run code; save arrays of numbers"
    if isinstance(error, MemoryError):  # for the array that the header names. A damaged header may name any size
        mend = "free some, or make the file again if it is not that large"
        return f"not enough memory to read it ({one_line(error)}); {mend}"
    damage = one_line(error) if head else "it is empty"
    return f"not a whole {ending} file ({damage}); delete it, and fetch or make it again"


def one_line(error: Exception) -> str:
    """The text of another library's error as one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def save_archive(path: Path, arrays: dict[str, np.ndarray], *, compressed: bool = False) -> None:
    """Write arrays as .npz, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append(path: Path, text: str) -> None:
    """Add text to the end of a file. A missing file is made."""
    with writing(path), Path(path).open("a", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_text(path: Path, mend: str = "mend the path or make it again") -> str:
    """Read text with its line ends, without the byte order mark (BOM) that some editors write first.

    Raises InputError when the file is missing, cannot be read or is not UTF-8. mend: the remedy for the first two.
    """
    try:
        with reading(path, mend) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8 ({error}); unpack it, or save it as UTF-8") from error


def read_json(path: Path) -> Any:
    """Read JSON. Raises InputError when the file is missing or damaged."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # too many digits or too deep lists, too
        raise InputError(f"{path}: not valid JSON ({error}); delete it, and make it again") from error


def read_record(path: Path, **kinds: type) -> dict[str, Any]:
    """Read a JSON object. kinds: the type of each entry that it must have.

    Raises InputError as read_json does, for JSON that is no object, and for a missing entry or another type.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a record of this project (no JSON object); delete it, and make it again")
    for name, kind in kinds.items():
        if not isinstance(record.get(name), kind):
            lack = f"{name!r} is missing or has another type"
            raise InputError(f"{path}: not a record of this project ({lack}); delete it, and make it again")
    return record


def form(*required: str, **entries: Any) -> Any:
    """A JSON object's form for msgspec.convert: the types of its entries. Others may be there, and all but the required
    may be missing (None)."""
    fields: Any = [(name, kind) if name in required else (name, kind, None) for name, kind in entries.items()]
    return msgspec.defstruct("Form", fields, kw_only=True)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def json_sha256(value: Any) -> str:
    """SHA-256 (hex) of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 (hex) of an array's bytes in C order. It does not cover shape and dtype."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
