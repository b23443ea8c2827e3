"""Which files of a replaced checkpoint have to go."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from s3dlio.compat.s3torchconnector.dcp import DefaultPrefixStrategy, HexPrefixStrategy, RoundRobinPrefixStrategy
from s3dlio.compat.s3torchconnector.dcp.replaced import replaced_files

NEW = "00c0ffee_"

DEFAULT = {
    "": {
        ".metadata",
        "__0_0.distcp",
        "__0_12.distcp",
        f"__0_{NEW}0.distcp",
        "__1_deadbeef_0.distcp",
        "__2_0.distcp",
        "__10_0.distcp",
        "__4_0.distcp",
        "model.distcp",
        "__0_0.distcp.bak",
        "x__0_0.distcp",
    }
}


@pytest.mark.parametrize(
    ("prefix_of", "ranks", "folders", "expected"),
    [
        (
            DefaultPrefixStrategy(),
            1,
            DEFAULT,
            {"__0_0.distcp", "__0_12.distcp", "__1_deadbeef_0.distcp", "__2_0.distcp"},
        ),
        (
            RoundRobinPrefixStrategy(["a", "b"], epoch_num=1),
            1,
            {"a/epoch_1": {"__0_0.distcp", "__2_0.distcp"}, "b/epoch_1": {"__1_1.distcp", "__0_0.distcp"}},
            {"a/epoch_1/__0_0.distcp", "b/epoch_1/__1_1.distcp", "a/epoch_1/__2_0.distcp"},
        ),
        (HexPrefixStrategy(min_prefix_length=2), 2, {"00": {"__0_0.distcp", "__1_0.distcp"}},
         {"00/__0_0.distcp", "00/__1_0.distcp"}),
        (lambda rank: f"r{rank}", 2, {"": {"r00.distcp", "r10.distcp"}}, {"r00.distcp", "r10.distcp"}),
        (lambda rank: "same-", 3, {"": {"same-0.distcp"}}, {"same-0.distcp"}),
        (DefaultPrefixStrategy(), 2, {}, set()),
    ],
)  # fmt: skip
def test_old_files_are_known_by_their_names(
    prefix_of: Callable[[int], str], ranks: int, folders: dict[str, set[str]], expected: set[str]
) -> None:
    assert replaced_files(prefix_of, ranks, lambda folder: folders.get(folder, set()), NEW) == expected
