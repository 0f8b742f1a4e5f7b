"""A release: what is written loads back to the same bits; any damage is one message, before anything is parsed, and nothing executes."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models import release
from cift_models.engine import fold
from cift_models.errors import CiftError, ReleaseError
from cift_models.files import canonical_json, sha256_bytes
from tests.releases import make_home, pipeline, second_session, write_release

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("pristine")
    return base / "releases" / write_release(base)


@pytest.fixture
def copy(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / pristine.name))


def refused(directory: Path, words: str) -> None:
    """verify and load both refuse, with a message that fits on a screen and says what to do."""
    for read in (release.verify, release.load):
        with pytest.raises(ReleaseError) as caught:
            read(directory)
        assert words in caught.value.message, caught.value.message
        assert caught.value.hint and len(str(caught.value).splitlines()) <= 10


def rewritten(directory: Path, change) -> Path:
    """The release with a changed manifest, under the name that fits it: what an attacker who can write the folder makes."""
    manifest = orjson.loads((directory / "manifest.json").read_bytes())
    change(manifest)
    raw = canonical_json(manifest)
    (directory / "manifest.json").write_bytes(raw)
    return directory.rename(directory.with_name(sha256_bytes(raw)))


def test_a_loaded_release_says_the_same_bits(pristine):
    loaded, manifest = release.load(pristine)
    session, events = second_session()
    made = pipeline()
    before, after = (fold(one, one.panel(session, events)) for one in (made, loaded))
    for kind in made.models:
        assert before.values[kind].tobytes() == after.values[kind].tobytes() and before.ready[kind].any()
    assert all(before.p[kind].tobytes() == after.p[kind].tobytes() for kind in before.p)
    assert before.signal.tobytes() == after.signal.tobytes() and np.abs(before.signal).sum() > 100
    assert [entry.kind for entry in manifest.models] == list(made.models) and loaded.rule == made.rule


def test_the_same_content_has_the_same_name_and_another_threshold_another(pristine, tmp_path):
    assert write_release(tmp_path) == pristine.name
    assert write_release(tmp_path, pipeline(threshold_bps=0.0)) != pristine.name
    assert not list((tmp_path / "releases").glob(".writing*"))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_of_any_file_is_refused(pristine, tmp_path_factory, data):
    files = sorted(p for p in pristine.rglob("*") if p.is_file())
    file = data.draw(st.sampled_from(files))
    raw = bytearray(file.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    directory = tmp_path_factory.mktemp("flip") / pristine.name
    shutil.copytree(pristine, directory)
    (directory / file.relative_to(pristine)).write_bytes(raw)
    refused(directory, "is damaged")
    shutil.rmtree(directory.parent)


def test_a_file_cut_short_or_missing_is_refused(copy):
    victim = copy / "models" / "linear" / "weights.npz"
    raw = victim.read_bytes()
    victim.write_bytes(raw[:-1])
    refused(copy, "models/linear/weights.npz has sha256")
    victim.unlink()
    refused(copy, "weights.npz is missing")


def test_an_unlisted_file_is_refused(copy):
    (copy / "models" / "linear" / "extra.py").write_text("raise SystemExit")
    refused(copy, "holds models/linear/extra.py, which its manifest does not list")


def test_an_unlisted_link_to_a_folder_is_refused(copy, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (copy / "models" / "more").symlink_to(tmp_path / "elsewhere")
    refused(copy, "holds models/more")


def test_a_listed_file_that_is_a_link_is_refused(copy, tmp_path):
    victim = copy / "models" / "linear" / "weights.npz"
    victim.rename(tmp_path / "same.npz")
    victim.symlink_to(tmp_path / "same.npz")
    refused(copy, "not a regular file")


def test_a_link_to_the_same_bytes_within_the_release_is_refused(copy):
    victim = copy / "models" / "linear" / "weights.npz"
    victim.rename(copy / "models" / "linear" / "z.npz")
    victim.symlink_to("z.npz")
    refused(copy, "models/linear/weights.npz, which is a link")


def test_a_link_in_place_of_a_folder_of_the_release_is_refused(copy, tmp_path):
    folder = copy / "models" / "linear"
    folder.rename(tmp_path / "linear")
    folder.symlink_to(tmp_path / "linear")
    refused(copy, "models/linear")


def test_a_manifest_that_is_a_link_is_refused(copy, tmp_path):
    (copy / "manifest.json").rename(tmp_path / "manifest.json")
    (copy / "manifest.json").symlink_to(tmp_path / "manifest.json")
    refused(copy, "not a regular file")


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(copy):
    victim = copy / "models" / "linear" / "weights.npz"
    victim.unlink()
    os.mkfifo(victim)
    refused(copy, "not a regular file")


def test_a_renamed_folder_is_refused(copy):
    refused(copy.rename(copy.with_name("f" * 64)), "The release ffffffffffff is damaged: its manifest.json has sha256")


def test_a_changed_manifest_is_refused(copy):
    raw = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(raw.replace(b'"format": 1', b'"format": 2'))
    refused(copy, "is damaged: its manifest.json")


def test_a_manifest_that_names_a_file_outside_is_refused(copy, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")

    def outside(manifest):
        manifest["files"]["../secret"] = sha256_bytes(b"x")

    refused(rewritten(copy, outside), "outside the release")


@pytest.mark.parametrize("change", ["extra", "missing", "type"])
def test_a_manifest_of_another_shape_is_refused(copy, change):
    def other(manifest):
        if change == "extra":
            manifest["surprise"] = 1
        elif change == "missing":
            del manifest["rule"]
        else:
            manifest["max_train_t1"] = "late"

    refused(rewritten(copy, other), "is not one this version reads")


def loads_not(directory: Path, words: str = "") -> None:
    """What only the content gives away: the bytes are those of the manifest, and loading refuses them by a CiftError."""
    with pytest.raises(CiftError) as caught:
        release.load(directory)
    assert words in caught.value.message and len(str(caught.value).splitlines()) <= 10


def set_value(name: str, value: object):
    def change(manifest):
        manifest[name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_value("format", 2),
        set_value("feature_hash", "0" * 64),
        set_value("decides", "ensemble"),
        set_value("rule", {"threshold_bps": "high"}),
        set_value("rule", {"surprise": 1}),
        set_value("universe", []),
        set_value("universe", [{"symbol": "A"}]),
        set_value("features", {"levels": 2, "surprise": 1}),
        set_value("features", {}),
        lambda m: m["models"][0].update(kind="os:system"),
        lambda m: m["models"][0].update(outputs=["more"]),
        lambda m: m["heads"].append("nothing"),
        lambda m: m["models"].pop(),
    ],
)
def test_a_manifest_that_contradicts_the_files_or_the_code_is_refused(copy, change):
    directory = rewritten(copy, change)
    loads_not(directory)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("inside", [False, True], ids=["a pickle for the archive", "an object array in the archive"])
@pytest.mark.parametrize("where", ["models/linear", "models/hmm", "models/hawkes", "models/trees", "heads/linear"])
def test_a_planted_pickle_never_executes(copy, tmp_path, inside, where):
    proof = tmp_path / "executed"
    bomb = Bomb(str(proof))
    pickle.loads(pickle.dumps(bomb))
    assert proof.exists()
    proof.unlink()
    victim = next((copy / where).glob("*.npz"))
    if inside:
        array = np.empty(1, object)
        array[0] = bomb
        with np.load(victim) as good:
            arrays = {name: good[name] for name in good.files}
        np.savez(victim, allow_pickle=True, **{**arrays, next(iter(arrays)): array})
    else:
        victim.write_bytes(pickle.dumps(bomb))

    def listed(manifest):
        manifest["files"][str(victim.relative_to(copy))] = sha256_bytes(victim.read_bytes())

    directory = rewritten(copy, listed)
    release.verify(directory)
    loads_not(directory)
    assert not proof.exists()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_verified_nonsense_is_refused_by_a_message_or_loads(pristine, tmp_path_factory, data):
    """A flipped byte that the manifest vouches for: a weight that is another number, or a CiftError; never another exception."""
    files = [p.relative_to(pristine) for p in sorted(pristine.rglob("*")) if p.is_file() and p.name != "manifest.json"]
    file = data.draw(st.sampled_from(files))
    directory = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("nonsense") / pristine.name))
    raw = bytearray((directory / file).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    (directory / file).write_bytes(raw)

    def listed(manifest):
        manifest["files"][str(file)] = sha256_bytes(bytes(raw))

    directory = rewritten(directory, listed)
    try:
        release.load(directory)
    except CiftError as error:
        assert len(str(error).splitlines()) <= 10
    shutil.rmtree(directory.parent)


def test_writing_again_mends_a_damaged_release(tmp_path):
    name = write_release(tmp_path)
    victim = tmp_path / "releases" / name / "models" / "linear" / "weights.npz"
    raw = victim.read_bytes()
    victim.write_bytes(raw[:-1])
    assert write_release(tmp_path) == name and victim.read_bytes() == raw
    release.verify(victim.parents[2])


def test_no_release_at_all(tmp_path):
    refused(tmp_path / ("a" * 64), "No release at")


def test_a_home_for_tests_holds_a_release_that_verifies(tmp_path):
    name = make_home(tmp_path)
    assert release.verify(tmp_path / "releases" / name).decides == "linear"
