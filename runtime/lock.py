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

_held: set[Path] = set()  # locks of this process: POSIX locks keep out other processes only


class Lock:
    """Context manager that holds an output, so that no second run writes it.

    A missing folder is made, and removed again where it stays empty.

    output: the file that is written, or one name for several files. The lock is an advisory POSIX lock on the hidden
    file .<name>.lock beside it. The system drops it when the process ends, even by a kill. The file that a killed run
    leaves behind holds no lock, and the next run takes it over. Leaving the context removes the file.

    The lock works between runs on one machine. On NFS and other shared file systems it also works between machines,
    where the mount has POSIX locks (NFS 4, or 3 with its lock service, without the option nolock). Where the system has
    no locks (Windows, some network mounts), a line says so and the run continues without a lock.

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
                pass  # a run that ended in the meantime has removed the opened file
        except OSError as error:
            raise unwritable(self._output, error) from error
        _held.add(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        _held.discard(self._path)
        with contextlib.suppress(OSError):  # a remaining file does no harm
            if not self.note:
                self._path.unlink()  # while the lock is held, so that the file is not another run's
        os.close(self._file)
        with contextlib.suppress(OSError):  # it is not empty
            for folder in self._made:
                folder.rmdir()

    @property
    def is_left(self) -> bool:
        """Whether the lock's file exists: a run is going on, or was killed."""
        return self._path.exists()

    @property
    def note(self) -> str:
        """The last note of this run, or of a run that was killed or failed before it removed its note; '' if none."""
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, 4096).decode("utf-8", "replace")

    def write(self, note: str) -> None:
        """Write a note that the next run finds if this run crashes. '' removes the note."""
        try:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, note.encode())
        except OSError as error:
            raise unwritable(self._output, error) from error

    def _opened(self) -> bool:
        """Open and lock the file. False, and the file closed, where another file now has its name."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # a run that ended in the meantime has removed the folder
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
