"""One run at a time on one output: a lock that dies with its process."""

import contextlib
import errno
import os
from pathlib import Path
from types import ModuleType

from runtime.files import InputError, unwritable

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_held: set[Path] = set()  # by this process, which POSIX locks do not shut out from its own


class Lock:
    """Context manager that holds an output, so that no second run writes it.

    A folder that is not there is made, and removed again where it stays empty.

    output: the file that is written, or one name for several. The lock is an advisory POSIX lock on the hidden file
    .<name>.lock beside it. The system drops it when the process ends in whatever way; a file that a killed run leaves
    behind holds nothing, and the next run takes it over. A lock that is given back removes the file.

    What holds: runs on one machine; on NFS and other shared file systems runs on several machines too, where the
    mount has POSIX locks (NFS 4, or 3 with its lock service; not with the option nolock). Where the system has none
    (Windows, some network mounts) a line says so and the run goes on without.

    Raises InputError where another run holds the output or the folder cannot be written.
    """

    def __init__(self, output: Path) -> None:
        self._output = Path(output)
        self._path = self._output.absolute().with_name(f".{self._output.name}.lock")
        self._file = -1

    def __enter__(self) -> "Lock":
        if self._path in _held:
            raise self._is_taken()
        self._made = [folder for folder in self._path.parents if not folder.exists()]
        try:
            while not self._opened():
                pass  # a run that has ended meanwhile has removed what was opened
        except OSError as error:
            raise unwritable(self._output, error) from error
        _held.add(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        _held.discard(self._path)
        with contextlib.suppress(OSError):  # a file that stays behind hinders nobody
            if not self.note:
                self._path.unlink()  # while it is held, so that it is no other run's
        os.close(self._file)
        with contextlib.suppress(OSError):  # something lies in it
            for folder in self._made:
                folder.rmdir()

    @property
    def is_left(self) -> bool:
        """Whether the lock's file is there, of a run that goes on or was killed."""
        return self._path.exists()

    @property
    def note(self) -> str:
        """What this run wrote down last, or one that was killed or failed before it took its note back; '' if none."""
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, 4096).decode("utf-8", "replace")

    def write(self, note: str) -> None:
        """Write down what an ending in the middle is to leave behind; '' takes it back."""
        try:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, note.encode())
        except OSError as error:
            raise unwritable(self._output, error) from error

    def _opened(self) -> bool:
        """Open and lock the file; whether it is still the one of that name, or else it is closed again."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # a run that has ended meanwhile has removed the folder
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOLCK, "the system has none")
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(self._file)
                raise self._is_taken() from None
            print(f"note: no file locks here ({error.strerror}); start no second run that writes {self._output}")
            return True
        if self._path.exists() and os.path.samestat(os.fstat(self._file), self._path.stat()):
            return True
        os.close(self._file)
        return False

    def _is_taken(self) -> InputError:
        return InputError(f"{self._output}: another run is writing it; wait for it or choose another output")
