"""The same steps with `s3torchconnector` itself and with ours, on one server: the same outcome, or the stated one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from ...servers.seaweedfs import SeaweedFS
from . import cases_dcp
from .contents import STATE, filled
from .kit import CASES, DIFFERENCES, ORIGINAL, OURS, REGION, Case, Difference, Library, Place, described, outcome

_MODULES = sorted(Path(__file__).parent.glob("cases_*.py"))
for module in _MODULES:
    import_module(f".{module.stem}", __package__)  # which registers its cases

_EACH_WAY = [pytest.param(ORIGINAL, OURS, id="ours-loads"), pytest.param(OURS, ORIGINAL, id="the-original-loads")]

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is .*, assuming the intent is to:UserWarning")


@pytest.fixture(scope="module")
def filled_place(s3_server: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with filled(s3_server, tmp_path_factory.mktemp("differential")) as place:
        yield place


@pytest.fixture
def place(filled_place: Place, s3_environment: SeaweedFS) -> Iterator[Place]:
    """The shared place, where every client finds it."""
    yield filled_place
    filled_place.clear()


@pytest.mark.parametrize("compared", CASES.values(), ids=CASES)
def test_the_outcome_is_the_same(compared: Case, place: Place) -> None:
    expected = outcome(compared, ORIGINAL, place)
    assert outcome(compared, OURS, place) == expected


@pytest.mark.parametrize("compared", DIFFERENCES.values(), ids=DIFFERENCES)
def test_the_outcomes_differ_as_stated(compared: Difference, place: Place) -> None:
    assert compared.original != compared.ours
    assert outcome(compared, ORIGINAL, place) == compared.original
    assert outcome(compared, OURS, place) == compared.ours


@pytest.mark.parametrize(("saver", "loader"), _EACH_WAY)
@pytest.mark.parametrize("zipped", [True, False])
def test_each_loads_the_checkpoint_that_the_other_saved(
    saver: Library, loader: Library, zipped: bool, place: Place
) -> None:
    with saver.checkpoint().writer(place.scratch("model.pt")) as writer:
        torch.save(STATE, writer, _use_new_zipfile_serialization=zipped)
    with loader.checkpoint().reader(place.scratch("model.pt")) as reader:
        assert described(torch.load(reader, weights_only=True)) == described(STATE)


@pytest.mark.parametrize(("saver", "loader"), _EACH_WAY)
def test_each_loads_the_distributed_checkpoint_that_the_other_saved(
    saver: Library, loader: Library, place: Place
) -> None:
    strategy = saver.dcp.HexPrefixStrategy(epoch_num=2, min_prefix_length=3)
    cases_dcp.save(saver, place.scratch("run/"), cases_dcp.example(), thread_count=2, prefix_strategy=strategy)
    loaded = cases_dcp.load(loader, place.scratch("run"), cases_dcp.blank(cases_dcp.example()))
    assert described(loaded) == described(cases_dcp.example())


@pytest.mark.parametrize(("saver", "loader"), _EACH_WAY)
def test_each_loads_the_lightning_checkpoint_that_the_other_saved(
    saver: Library, loader: Library, place: Place
) -> None:
    saver.lightning.S3LightningCheckpoint(REGION).save_checkpoint(STATE, place.scratch("last.ckpt"))
    plugin = loader.lightning.S3LightningCheckpoint(REGION)
    assert described(plugin.load_checkpoint(place.scratch("last.ckpt"))) == described(STATE)
    plugin.remove_checkpoint(place.scratch("last.ckpt"))
    assert place.names() == []


def test_there_are_cases_of_every_area() -> None:
    areas = {name.partition("-")[0] for name in CASES} | {"differences"}
    assert areas == {module.stem.removeprefix("cases_") for module in _MODULES}
    assert len(CASES) >= 170
