"""Who may do what with a file: kept where it is replaced by a new one.

Kept are the mode's nine bits, the group, the owner and the access control list (acl(5)), as far as this process may set
them. What it may not set gives nobody more than the old file did: in the place of a group that cannot be kept, the
group of the new file may do no more than everybody. Bits such as setuid, and capabilities, were given to the old
content, and go with it.

A directory has nothing to be replaced by; one that would have other rights if it were made again is not removed when
it gets empty.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_ACL, _DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"


@dataclass(frozen=True, slots=True)
class Rights:
    """Those of one file. Errors: every method raises `OSError`."""

    mode: int
    owner: int
    group: int
    acl: bytes | None

    @classmethod
    def of(cls, directory: int, name: bytes, *, follow: bool) -> Self | None:
        """Those of the file `name` in an open directory, if there is one; where it is a link, and is to be followed,
        those of what it leads to."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=follow)
        except FileNotFoundError:
            return None
        acl = _acl(_path(directory, name), follow=follow)
        return cls(status.st_mode & 0o777, status.st_uid, status.st_gid, acl)

    def give(self, fd: int) -> None:
        """Give them to an open file that this process has made."""
        mode, status = self.mode, os.fstat(fd)
        if self.group != status.st_gid:
            try:
                os.fchown(fd, -1, self.group)
            except OSError:
                mode &= ~0o070 | mode << 3
        _set_acl(fd, self.acl)
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            os.fchmod(fd, mode)
        if self.owner != status.st_uid:
            with suppress(OSError):
                os.fchown(fd, self.owner, -1)


def _path(directory: int, name: bytes) -> bytes:
    """For calls that know no open directories."""
    return b"/proc/self/fd/%d/%b" % (directory, name)


def _acl(file: int | bytes, kind: str = _ACL, *, follow: bool = True) -> bytes | None:
    try:
        return os.getxattr(file, kind, follow_symlinks=follow)
    except OSError:  # it has none, as its file system may have none
        return None


def _set_acl(fd: int, acl: bytes | None) -> None:
    """Also against one that the file has inherited from its directory."""
    if acl == _acl(fd):
        return
    if acl is None:
        os.removexattr(fd, _ACL)
    else:
        os.setxattr(fd, _ACL, acl)


def is_as_made(above: int, name: bytes) -> bool:
    """Whether the directory `name` in an open one has the rights that it would have if it were made again."""
    parent, status = os.fstat(above), os.stat(name, dir_fd=above, follow_symlinks=False)
    inherited = parent.st_mode & stat.S_ISGID
    made = (0o777 & ~_umask() | inherited, os.geteuid(), parent.st_gid if inherited else os.getegid())
    if (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) != made:
        return False
    return all(_acl(_path(above, name), kind, follow=False) is None for kind in (_ACL, _DEFAULT_ACL))


def _umask() -> int:
    """Read from the kernel, as umask(2) would change it, for all threads."""
    with open("/proc/self/status") as status:
        return next((int(line.split()[1], 8) for line in status if line.startswith("Umask:")), 0)
