"""The owner of the files that a run makes: a lock that keeps other runs out and dies with its process."""

import contextlib
import errno
import os
from pathlib import Path
from typing import TypeVar

from runtime.files import InputError, remove_leftovers, require_no_folder, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Owner = TypeVar("Owner", bound="Artifact")
_locked: set[Path] = set()  # by this process. POSIX locks keep out other processes only


class Artifact:
    """Files that one run at a time makes. Use as a context manager: while it is held, no other run writes them.

    path: the file that locks and errors name, or one name for several files. more: the files that are made with it.
    A missing folder is made. If it is still empty at the end, it is removed again.

    Entering removes half-written files of killed runs. It raises InputError where another run makes the files, where a
    folder lies at the path of a file, or where the files' folder cannot be written.

    The lock is an advisory POSIX lock on the hidden file .<name>.lock beside the path. The system releases it when
    the process ends, even when it is killed. A killed run leaves the hidden file, but no lock. The next run uses that
    file. Leaving the context removes it.

    The lock works between runs on one machine. It works between machines where a shared file system has POSIX locks:
    NFS 4, or NFS 3 with its lock service and without the option nolock. Windows and some network mounts have no locks.
    There a line says so, and the run continues without a lock.
    """

    def __init__(self, path: Path, *more: Path) -> None:
        self.path = Path(path)
        self.files = (self.path, *more)
        self._lock = self.path.absolute().with_name(f".{self.path.name}.lock")

    def __enter__(self: Owner) -> Owner:
        require_no_folder(*self.files)
        if self._lock in _locked:
            raise self._is_taken()
        made = [folder for folder in self._lock.parents if not folder.exists()]
        with writing(self.path):
            while not self._opened():
                pass  # another run has ended and removed the file that was opened
        _locked.add(self._lock)
        with contextlib.ExitStack() as held:
            held.callback(self._release, made)
            remove_leftovers(*self.files)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @property
    def is_left(self) -> bool:
        """Whether the lock's file exists: a run is going on, or was killed."""
        return self._lock.exists()

    def _release(self, made: list[Path]) -> None:
        """Remove the lock's file, release the lock, and remove the folders ``made`` where they are empty."""
        _locked.discard(self._lock)
        with contextlib.suppress(OSError):  # a file that stays does no harm
            self._lock.unlink()  # while the lock is held, so that the file is not another run's
        os.close(self._file)
        with contextlib.suppress(OSError):  # it is not empty
            for folder in made:
                folder.rmdir()

    def _opened(self) -> bool:
        """Open and lock the file. Returns False and closes the file if the path names another file by now."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has ended and removed the folder
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOLCK, "the system has none")
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(self._file)
                raise self._is_taken() from None
            print(f"note: no file locks here ({error.strerror}); start no second run that writes {self.path}")
            return True
        with contextlib.suppress(FileNotFoundError):  # another run has ended and removed the file
            if os.path.samestat(os.fstat(self._file), self._lock.stat()):
                return True
        os.close(self._file)
        return False

    def _is_taken(self) -> InputError:
        return InputError(f"{self.path}: another run is writing it; wait for it or choose another output")
