"""Model pairs: only folders and hub ids that are allowed, and only safetensors."""

from pathlib import Path

import pytest

from factory import models
from factory.errors import Conflict, Invalid, ModelError, NotFound
from factory.ids import new_id
from factory.models import Digests
from factory.settings import Settings
from factory.tables import ModelPair

from .world import World

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home", model_roots=(tmp_path / "roots",), model_hub_ids=("org/base",)
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "roots"


def save(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or ("config.json", "model.safetensors"):
        (folder / name).write_text("x")
    return folder


def add(world: World, settings: Settings, base: object, expert: object, **fields: str) -> ModelPair:
    with world.database.transaction() as session:
        return models.add(
            session,
            settings,
            name=fields.pop("name", f"p{new_id().hex}"),
            base=str(base),
            expert=str(expert),
            **fields,
        )


def problem(world: World, settings: Settings, ref: object, **fields: str) -> str:
    """Why this cannot be a base."""
    good = settings.model_roots[0] / "good"
    if not good.exists():
        save(good)
    with pytest.raises(Invalid) as raised:
        add(world, settings, ref, good, **fields)
    assert [error.field for error in raised.value.errors] == ["base"]
    return raised.value.errors[0].reason


def test_a_pair_below_a_root_is_registered_once(
    world: World, settings: Settings, root: Path
) -> None:
    base = save(root / "base")
    adapter = save(settings.models_dir / "mine", "adapter_config.json", "adapter.safetensors")
    pair = add(world, settings, f"{base}/../base", adapter)
    assert (pair.base, pair.expert) == (str(base), str(adapter))
    with pytest.raises(Conflict):
        add(world, settings, base, adapter, name=pair.name)
    with world.database.transaction() as session:
        assert models.get(session, pair.name).id == pair.id
        assert models.exists(session, pair.name)
        assert not models.exists(session, "no-such")
        assert models.list_all(session, limit=1)[0].id == pair.id
        with pytest.raises(NotFound):
            models.get(session, "no-such")


def test_folders_outside_the_roots_are_refused(
    world: World, settings: Settings, root: Path, tmp_path: Path
) -> None:
    outside = save(tmp_path / "outside")
    beside = save(tmp_path / "roots-beside")
    link = root / "link"
    root.mkdir()
    link.symlink_to(outside)
    for ref in (outside, beside, f"{root}/../outside", link, "/etc", "~", "."):
        assert "FACTORY_MODEL_ROOTS" in problem(world, settings, ref)


def test_a_file_that_links_out_of_the_roots_is_refused(
    world: World, settings: Settings, root: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    folder = save(root / "tricky", "config.json", "model.safetensors")
    (folder / "tokenizer.json").symlink_to(secret)
    assert "tokenizer.json" in problem(world, settings, folder)


def test_links_within_the_roots_are_followed(world: World, settings: Settings, root: Path) -> None:
    """As in a hub cache, whose snapshots are links to blobs."""
    blobs = save(root / "blobs", "one", "two")
    snapshot = save(root / "snapshot", "README.md")
    (snapshot / "config.json").symlink_to(blobs / "one")
    (snapshot / "model.safetensors").symlink_to("../blobs/two")
    assert add(world, settings, snapshot, snapshot).base == str(snapshot)


def test_folders_without_what_is_loaded_are_refused(
    world: World, settings: Settings, root: Path
) -> None:
    pickled = save(root / "pickled", "config.json", "pytorch_model.bin")
    bare = save(root / "bare", "model.safetensors")
    assert "safetensors" in problem(world, settings, pickled)
    assert "config.json" in problem(world, settings, bare)
    assert "is not a folder" in problem(world, settings, root / "missing")
    assert "is not a folder" in problem(world, settings, bare / "model.safetensors")


@pytest.mark.parametrize("ref", ["/a\x00b", "~no-such-user/x", "/" + "n" * 300, "/loop"])
def test_paths_of_nonsense_are_refused(
    world: World, settings: Settings, root: Path, ref: str
) -> None:
    root.mkdir()
    (root / "loop").symlink_to(root / "loop")
    assert problem(world, settings, ref if "~" in ref else f"{root}{ref}")


@pytest.mark.parametrize(
    ("ref", "revision", "reason"),
    [
        ("org/other", COMMIT, "allowed hub id"),
        ("org/base", None, "needs `revision`"),
        ("org/base", "main", "needs `revision`"),
        ("org/base", COMMIT[:-1], "needs `revision`"),
        ("org/base", COMMIT + "\n", "needs `revision`"),
        ("relative/folder", COMMIT, "whole path"),
        ("", COMMIT, "whole path"),
    ],
)
def test_hub_ids_need_an_allowance_and_a_commit(
    world: World, settings: Settings, ref: str, revision: str | None, reason: str
) -> None:
    given = {} if revision is None else {"revision": revision}
    assert reason in problem(world, settings, ref, **given)


def test_an_allowed_hub_id_at_a_commit_is_registered(
    world: World, settings: Settings, root: Path
) -> None:
    pair = add(world, settings, "org/base", save(root / "expert"), revision=COMMIT)
    assert (pair.base, pair.revision) == ("org/base", COMMIT)


def test_both_models_are_checked_and_named(world: World, settings: Settings) -> None:
    with pytest.raises(Invalid) as raised:
        add(world, settings, "/etc", "/usr")
    assert [error.field for error in raised.value.errors] == ["base", "expert"]
    with pytest.raises(Invalid):
        models.check_base(settings, "/etc")


def test_digests_are_kept_and_others_refused(world: World) -> None:
    first = Digests("a", "b", "c")
    for digests in (first, first):
        with world.database.transaction() as session:
            models.record_digests(session, world.model.id, digests)
    for other in (Digests("x", "b", "c"), Digests("a", "x", "c"), Digests("a", "b", "x")):
        with (
            pytest.raises(ModelError, match="have changed"),
            world.database.transaction() as session,
        ):
            models.record_digests(session, world.model.id, other)
    with world.database.transaction() as session:
        pair = session.get_one(ModelPair, world.model.id)
    assert (pair.base_sha256, pair.expert_sha256, pair.tokenizer_sha256) == ("a", "b", "c")
