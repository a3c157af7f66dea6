"""Leases: signs of life, of engines and of others that hold work."""

from converge.lease.lease import (
    LEASE,
    LEAST,
    LOOK,
    RENEW,
    Lease,
    Leases,
    Owner,
    RowLeases,
    RowOwner,
    check_lease,
    expire,
    list_gone,
    now,
)

__all__ = [
    "LEASE",
    "LEAST",
    "LOOK",
    "RENEW",
    "Lease",
    "Leases",
    "Owner",
    "RowLeases",
    "RowOwner",
    "check_lease",
    "expire",
    "list_gone",
    "now",
]
