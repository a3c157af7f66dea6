"""Groups: members who share partitions, so that what belongs together reaches one of them.

:mod:`~converge.group.keys` says which partition a key is in, :mod:`~converge.group.shares` who
takes and gives how many, :mod:`~converge.group.signing` what makes a message one of the group's;
all three are pure. :mod:`~converge.group.member` is a member: its partitions are rows, locked under
its lease.
"""
