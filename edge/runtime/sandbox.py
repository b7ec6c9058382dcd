"""The last thing that runs before workerd: gives away every right this process has, then becomes workerd.

A program of its own (`python -I -S sandbox.py <plan> <argv of workerd>…`), so nothing is imported but the standard library and nothing runs
between a fork and an exec of the edge. It starts as the edge's user and ends as workerd in an empty network namespace, under a user of
its own where the machine allows that, with no way to get rights back, dying with the edge. A step that fails ends it
with exit status 125 and one line on stderr; it never goes on with less than the plan asks for.

Sources: unshare(2), prctl(2), seccomp(2), user_namespaces(7).
"""

import ctypes
import errno
import os
import resource
import sys

TYPE_CHECKING = False  # typing, json and signal would cost more time than all that is done here
if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = 125
SIGKILL = 9
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
AUDIT_ARCH_X86_64 = 0xC000003E
X32_SYSCALLS = 0x40000000
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
SYS_SOCKET = 41
# x86-64 numbers of what a JavaScript runtime never needs and an attacker does.
DENIED_SYSCALLS = {
    "ptrace": 101, "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176,
    "quotactl": 179, "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "unshare": 272, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321,
    "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip


def main(plan: "dict[str, str]", argv: "list[str]") -> None:
    """`plan` has `exe_fd`, `parent` and optionally `network_namespace`, `uid`, `seccomp` and limits by name (`RLIMIT_…`)."""
    libc = ctypes.CDLL(None, use_errno=True)
    step("oom_score_adj", lambda: write("/proc/self/oom_score_adj", "500"))
    for name in [name for name in plan if name.startswith("RLIMIT_")]:
        limit = int(plan[name])
        step(name, lambda: resource.setrlimit(getattr(resource, name), (limit, limit)))  # noqa: B023
    if "network_namespace" in plan:
        step("network_namespace", lambda: empty_network(libc))
    if "uid" in plan:
        step("uid", lambda: become(int(plan["uid"])))
    step("no_new_privs", lambda: checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))
    # After the change of user, which clears it; the parent may have died before.
    step("parent", lambda: checked(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)))
    if os.getppid() != int(plan["parent"]):
        sys.exit(FAILED)
    if "seccomp" in plan:
        step("seccomp", lambda: filter_syscalls(libc))
    step("exec", lambda: os.execve(f"/proc/self/fd/{plan['exe_fd']}", argv, {}))  # noqa: S606 - that is its purpose


def step(name: str, action: "Callable[[], object]") -> None:
    try:
        action()
    except OSError as exc:
        sys.stderr.write(f"sandbox: {name}: {exc.strerror}\n")
        sys.exit(FAILED)


def empty_network(libc: ctypes.CDLL) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        checked(libc.unshare(CLONE_NEWNET))
        return
    checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{uid} {uid} 1")
    write("/proc/self/gid_map", f"{gid} {gid} 1")


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class Line(ctypes.Structure):
    """struct sock_filter"""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_uint16), ("lines", ctypes.POINTER(Line)))


def filter_syscalls(libc: ctypes.CDLL) -> None:
    """Sockets only of the Unix family, none of DENIED_SYSCALLS, no 32-bit or x32 calls. Refusals are errors, not death."""
    program = [
        (LOAD, 0, 0, 4),  # seccomp_data.arch
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # seccomp_data.nr
        (JUMP_AT_LEAST, 0, 1, X32_SYSCALLS),
        (RETURN, 0, 0, ERRNO | errno.ENOSYS),
        (JUMP_EQUAL, 0, 3, SYS_SOCKET),
        (LOAD, 0, 0, 16),  # seccomp_data.args[0], the address family
        (JUMP_EQUAL, 1, 0, 1),  # AF_UNIX
        (RETURN, 0, 0, ERRNO | errno.EAFNOSUPPORT),
        (LOAD, 0, 0, 0),
    ]
    for number in DENIED_SYSCALLS.values():
        program += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | errno.EPERM)]
    program.append((RETURN, 0, 0, ALLOW))
    lines = (Line * len(program))(*(Line(*line) for line in program))
    fprog = Program(len(program), lines)
    checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0))


def checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123 - pathlib would double the start-up time
        file.write(text)


if __name__ == "__main__":
    main(dict(entry.split("=") for entry in sys.argv[1].split(",")), sys.argv[2:])
