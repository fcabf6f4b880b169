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

_held: set[Path] = set()  # by this process. POSIX locks keep out other processes only


class Lock:
    """Context manager: while one run holds an output, no other run writes it.

    output: the file that is written, or one name for several files. A missing folder is made. If it is still empty at
    the end, it is removed again.

    The lock is an advisory POSIX lock on the hidden file .<name>.lock beside the output. The system releases it when
    the process ends, even when it is killed. A killed run leaves the hidden file, but no lock. The next run uses that
    file. Leaving the context removes it.

    The lock works between runs on one machine. It works between machines where a shared file system has POSIX locks:
    NFS 4, or NFS 3 with its lock service and without the option nolock. Windows and some network mounts have no locks.
    There a line says so, and the run continues without a lock.

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
                pass  # another run has ended and removed the file that was opened
        except OSError as error:
            raise unwritable(self._output, error) from error
        _held.add(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        _held.discard(self._path)
        with contextlib.suppress(OSError):  # a file that stays does no harm
            self._path.unlink()  # while the lock is held, so that the file is not another run's
        os.close(self._file)
        with contextlib.suppress(OSError):  # it is not empty
            for folder in self._made:
                folder.rmdir()

    @property
    def is_left(self) -> bool:
        """Whether the lock's file exists: a run is going on, or was killed."""
        return self._path.exists()

    def _opened(self) -> bool:
        """Open and lock the file. Returns False and closes the file if the path names another file by now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has ended and removed the folder
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
