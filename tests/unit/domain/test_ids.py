from __future__ import annotations

import time
import uuid

import pytest

from envoi_trace_core.errors import UsageError
from envoi_trace_core.ids import check_trajectory_id, new_trajectory_id


def test_a_new_id_is_a_uuid_of_version_7_with_the_time():
    before_ms = time.time_ns() // 1_000_000
    value = uuid.UUID(new_trajectory_id())

    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert before_ms <= value.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_are_safe_and_differ():
    ids = [new_trajectory_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(check_trajectory_id(one) == one for one in ids)


@pytest.mark.parametrize("word", ["a", "run-1", "A.b_c-9", "x" * 128])
def test_what_a_user_may_choose(word):
    assert check_trajectory_id(word) == word


@pytest.mark.parametrize(
    "word", ["", ".", "..", "../x", "a/b", "-x", ".x", "a b", "a\n", "é", "x" * 129, "a\0", "a%2f"]
)
def test_what_would_not_be_safe_as_a_name(word):
    with pytest.raises(UsageError, match="can't be a trajectory id"):
        check_trajectory_id(word)
