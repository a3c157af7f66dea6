"""Which partition a key is in: the same for ever, and everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from converge.group.keys import partition_of

# made with: printf %s KEY | sha256sum | head -c 16, read as a number, modulo
VECTORS: list[tuple[Any, int, int]] = [
    ("", 8, 4),
    (None, 8, 4),
    ("volume-1", 8, 0),
    ("788608ec-ebdc-45c5-bc7f-e5f24ab92c80", 8, 0),
    ("788608ec-ebdc-45c5-bc7f-e5f24ab92c80", 1024, 440),
    ("Grüße", 7, 3),
    (7, 7, 2),
    ("7", 7, 2),
]


@pytest.mark.parametrize(("key", "partitions", "expected"), VECTORS)
def test_the_partition_of_a_key_never_changes(key: Any, partitions: int, expected: int) -> None:
    assert partition_of(key, partitions) == expected


def test_it_is_what_other_tools_compute() -> None:
    shell = "printf %s volume-1 | sha256sum | cut -c 1-16"
    digits = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert partition_of("volume-1", 8) == int(digits, 16) % 8


def test_it_is_the_same_in_a_process_with_another_hash_seed() -> None:
    code = (
        "from converge.group.keys import partition_of\n"
        "print([partition_of(str(n), 97) for n in range(50)])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{[partition_of(str(n), 97) for n in range(50)]}\n"}


def test_keys_are_spread_evenly() -> None:
    counts = Counter(partition_of(f"instance-{number:08x}", 16) for number in range(16_000))
    assert len(counts) == 16
    # five standard deviations
    assert all(abs(count - 1000) < 155 for count in counts.values())


def test_a_lone_surrogate_has_a_partition_too() -> None:
    assert 0 <= partition_of("\ud800", 8) < 8
