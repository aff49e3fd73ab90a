"""Programs as another user or with less, without a fork of the test: grpc's threads abort an interpreter that forks, and
subprocess forks (instead of vfork) for preexec_fn, user and group."""


def as_user(uid, gid=None, groups=()):
    """What to put before a command line; nothing for the user who runs the tests."""
    if uid is None:
        return []
    gid = uid if gid is None else gid
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}",
            f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"]


def with_descriptor_3(descriptor):
    """The program finds that descriptor (passed on by pass_fds) as 3."""
    return ["bash", "-c", f'exec "$@" 3<&{descriptor}-', "bash"] if descriptor != 3 else []
