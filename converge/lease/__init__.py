"""Leases: signs of life of engines and of other owners of work."""

from converge.lease.lease import (
    LEASE,
    LOOK,
    MIN_LEASE,
    RENEW,
    Lease,
    Leases,
    Owner,
    RowLeases,
    RowOwner,
    check_lease,
    expire,
    filter_gone,
    list_gone,
    now,
)

__all__ = [
    "LEASE",
    "LOOK",
    "MIN_LEASE",
    "RENEW",
    "Lease",
    "Leases",
    "Owner",
    "RowLeases",
    "RowOwner",
    "check_lease",
    "expire",
    "filter_gone",
    "list_gone",
    "now",
]
