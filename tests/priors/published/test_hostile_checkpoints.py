"""Files that are damaged, that lie about sizes, or that would run code: one error line, nothing run, memory bounded."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hostile_pickles import MAGIC, PROTO, call, running, stacked, text
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from recon.errors import ConfigError, InputError
from recon.priors.networks.adm import ADM, ADMConfig
from recon.priors.open import open_prior
from recon.priors.published import limits
from recon.priors.published.limits import MAX_DEPTH, printable
from recon.priors.published.reader import read_checkpoint

MEGABYTE = 2**20
# in place of the real limit on operations, so that the tests are fast
FEW = 50_000
CASES = running(Path("/sentinel"))


def zipped(data_pkl: bytes, folder: str = "archive", compression: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    """Return a torch zip archive with this data.pkl and these storages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", data_pkl)
        for key, data in entries.items():
            archive.writestr(f"{folder}/data/{key.removeprefix('s')}", data)
    return buffer.getvalue()


def storage(key: str = "0", count: bytes = b"K\x04", kind: str = "FloatStorage") -> bytes:
    """Push a storage by its persistent id."""
    return b"(" + text("storage") + stacked("torch", kind) + text(key) + text("cpu") + count + b"tQ"


def tensor(parts: bytes, offset: bytes = b"K\x00", size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85") -> bytes:
    """Push a tensor on a storage."""
    return call("torch._utils", "_rebuild_tensor_v2", parts, offset, size, stride, b"\x89", b"N")


def long(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


@pytest.mark.parametrize("layout", ["plain", "zip", "legacy"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_of_a_file_runs(tmp_path, case, layout):
    sentinel = tmp_path / "sentinel"
    data, named = running(sentinel)[case]
    modules = set(sys.modules)
    if layout == "zip":
        if case == "persistent id" or case.startswith("legacy"):
            pytest.skip("those are of other layouts")
        data = zipped(data)
    elif layout == "legacy":
        if case == "persistent id" or case.startswith("legacy"):
            pytest.skip("those are of other layouts")
        data = MAGIC + pickle.dumps(1001) + pickle.dumps({"little_endian": True}) + data
    path = tmp_path / "f.pt"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert not sentinel.exists()
    assert "antigravity" not in set(sys.modules) - modules
    assert caught.value.exit_code == 3
    assert named in caught.value.message and "refused" in caught.value.message
    assert caught.value.message.startswith("cannot read f.pt: ") and caught.value.message.isprintable()


def test_the_same_pickles_do_run_where_they_are_believed(tmp_path):
    """Else the test above would show nothing."""
    for case in ("os.system", "posix", "eval", "nested", "as a state", "getattr chain", "INST", "as a key"):
        sentinel = tmp_path / case.replace(" ", "-")
        data = running(sentinel)[case][0]
        try:
            pickle.loads(data)
        except (TypeError, AttributeError, pickle.UnpicklingError):
            pass
        assert sentinel.exists() or case == "getattr chain", case


ONES = b"(" + b"K\x01" * 99 + b"t"
BROKEN_TENSORS = {
    "larger than its storage": (tensor(storage(), size=b"K\x05\x85"), "larger than its storage"),
    "expanded without end": (
        tensor(storage(), size=b"(" + long(2**40) + b"t", stride=b"K\x00\x85"), "larger than its storage"
    ),
    "absurd sizes": (tensor(storage(), size=long(2**62) * 3 + b"\x87", stride=b"K\x01" * 3 + b"\x87"), "another form"),
    "absurd empty sizes": (
        tensor(storage(), size=long(2**62) + b"K\x00\x86", stride=b"K\x01K\x01\x86"), "another form"
    ),
    "past its storage": (tensor(storage(), offset=b"K\x01"), "outside its storage"),
    "strides past its storage": (tensor(storage(), size=b"K\x02\x85", stride=b"K\x07\x85"), "outside its storage"),
    "negative offset": (tensor(storage(), offset=b"J\xff\xff\xff\xff"), "another form"),
    "negative size": (tensor(storage(), size=b"J\xff\xff\xff\xff\x85"), "another form"),
    "negative stride": (tensor(storage(), stride=b"J\xff\xff\xff\xff\x85"), "another form"),
    "many dimensions": (tensor(storage(), size=ONES, stride=ONES), "another form"),
    "sizes of text": (tensor(storage(), size=text("4") + b"\x85"), "another form"),
    "fewer strides": (tensor(storage(), stride=b")"), "differ in length"),
    "no storage": (tensor(b"N"), "another form"),
    "more bytes declared": (tensor(storage(count=b"K\x05")), "another number of bytes"),
    "absurd bytes declared": (tensor(storage(count=long(2**39))), "another number of bytes"),
    "negative bytes declared": (tensor(storage(count=b"J\xff\xff\xff\xff")), "no storage"),
    "a storage that is missing": (tensor(storage(key="7")), "lacks data/7"),
    "a key that leaves the archive": (tensor(storage(key="../../f.pt")), "lacks data/../../f.pt"),
    "a key that is a number": (tensor(storage().replace(text("0"), b"K\x00")), "no storage"),
    "an unknown storage": (tensor(storage().replace(text("storage"), text("memory"))), "no storage"),
    "an id that is short": (b"(" + text("storage") + b"tQ", "no storage"),
    "an id that is a number": (b"K\x07Q", "no storage"),
    "two types of one storage": (
        b"(" + tensor(storage()) + tensor(storage(kind="IntStorage")) + b"t", "declared twice"
    ),
    "a bare storage": (storage(), "left unfinished"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_TENSORS)
def test_tensors_that_lie_about_their_size_are_refused(tmp_path, case):
    data, reason = BROKEN_TENSORS[case]
    path = tmp_path / "f.pt"
    path.write_bytes(zipped(PROTO + data + b".", s0=bytes(16)))
    with bounded(), pytest.raises(InputError, match=r"cannot read f\.pt") as caught:
        read_checkpoint(path)
    assert reason in caught.value.message


def test_the_same_tensor_with_its_true_size_is_read(tmp_path):
    path = tmp_path / "f.pt"
    path.write_bytes(zipped(PROTO + tensor(storage()) + b".", s0=struct.pack("<4f", 1, 2, 3, 4)))
    assert read_checkpoint(path).tolist() == [1, 2, 3, 4]


def squared(times: int) -> bytes:
    """Push a list that holds the same list twice, and so on."""
    return b"]\x94" + b"".join(b"(h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"l\x94" for i in range(times))


EMBEDDED = pickle.dumps(bytes(100_000))[:-1]
ENCODE = stacked("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R"
BOMBS = {
    "lists of lists twice": (PROTO + squared(60) + b".", "more than"),
    "a list in itself": (b"]q\x00h\x00a.", "contains itself"),
    "a record in itself": (
        b"ctorch.nn.modules.linear\nLinear\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.", "contains itself"
    ),
    "deep lists": (b"]" * 20_000 + b"a" * 19_999 + b".", "nested"),
    "deep tuples": (b")" + b"\x85" * 40_000 + b".", "nested"),
    "deep tuples as a key": (b"})" + b"\x85" * 40_000 + b"Ns.", "a tuple as a key"),
    "tuples of tuples twice as a key": (b"}(" + b")" + b"2\x86" * 60 + b"Nu.", "as a key"),
    "tuples of tuples twice in a set": (b"\x80\x04\x8f(" + b")" + b"2\x86" * 60 + b"\x90.", "as a key"),
    "many values": (b"(" + b"]" * (FEW + 1) + b"t.", "more than"),
    "a far memo": (b"K\x01r\xff\xff\xff\x7f0j\xff\xff\xff\x7e.", "never stored"),
    "long bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b".", "damaged"),
    "long byte array": (b"\x80\x05\x96" + struct.pack("<Q", 2**45) + b".", "damaged"),
    "long text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**50) + b".", "damaged"),
    "long number": (PROTO + b"\x8b" + struct.pack("<i", 2**31 - 1) + b".", "damaged"),
    "long decimal": (b"L" + b"9" * 100_000 + b"L\n.", "damaged"),
    "long frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"(", "damaged"),
    "one text encoded again and again": (
        PROTO + text("a" * 100_000) + b"\x94" + ENCODE * 500 + b".", "more memory",
    ),
    "one set made again and again": (
        PROTO + b"(" + b"K\x01" * 5_000 + b"l\x94" + (stacked("builtins", "set") + b"h\x00\x85R0") * 1_000 + b".",
        "more than",
    ),
    "one array made again and again": (
        EMBEDDED + b"q\x00" + (
            call("numpy.core.numeric", "_frombuffer", b"h\x00", call("numpy", "dtype", text("u1")),
                 b"J" + struct.pack("<i", 100_000) + b"\x85", text("C")) + b"0"
        ) * 100 + b"N.", "more memory",
    ),
}  # fmt: skip


class bounded:
    """Fails where the block takes more Python memory than this; the files are of half a megabyte at most."""

    limit = 30 * MEGABYTE

    def __enter__(self):
        tracemalloc.start()

    def __exit__(self, *_):
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < self.limit, f"{peak / MEGABYTE:.0f} MB"


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_end_early(tmp_path, case, monkeypatch):
    monkeypatch.setattr(limits, "MAX_OPERATIONS", FEW)
    data, reason = BOMBS[case]
    path = tmp_path / "f.pkl"
    path.write_bytes(data)
    assert len(data) < MEGABYTE / 2
    with bounded(), pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert reason in caught.value.message


@pytest.mark.slow
def test_the_real_limit_on_operations_keeps_memory_bounded(tmp_path):
    path = tmp_path / "f.pkl"
    path.write_bytes(b"(" + b"]" * (limits.MAX_OPERATIONS + 1) + b"t.")
    tracemalloc.start()
    with pytest.raises(InputError, match="more than 2000000 values"):
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * MEGABYTE


def test_a_depth_that_networks_reach_is_read(tmp_path):
    path = tmp_path / "f.pkl"
    path.write_bytes(b"]" * (MAX_DEPTH - 1) + b"a" * (MAX_DEPTH - 2) + b".")
    read_checkpoint(path)
    path.write_bytes(b"]" * (MAX_DEPTH + 1) + b"a" * MAX_DEPTH + b".")
    with pytest.raises(InputError, match="nested"):
        read_checkpoint(path)


def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "f.pt"
    bomb = zipped(PROTO + tensor(storage(count=b"J" + struct.pack("<i", 2**28))) + b".",
                  compression=zipfile.ZIP_DEFLATED, s0=bytes(2**24))  # fmt: skip
    assert len(bomb) < MEGABYTE
    path.write_bytes(bomb)
    with bounded(), pytest.raises(InputError, match="more bytes than the archive has"):
        read_checkpoint(path)
    path.write_bytes(zipped(PROTO + tensor(storage()) + b".", compression=zipfile.ZIP_DEFLATED, s0=bytes(16)))
    with pytest.raises(InputError, match="a compressed entry"):
        read_checkpoint(path)


def test_entries_that_overlap_are_refused(tmp_path):
    data = bytearray(zipped(PROTO + b"N.", **{f"s{i}": bytes(50_000) for i in range(2)}))
    end = data.rindex(b"PK\x05\x06")
    first = struct.unpack_from("<I", data, end + 16)[0]
    directory = bytes(data[first:end])
    record = directory[directory.rindex(b"PK\x01\x02") :]
    # many records of the same bytes, under names of their own
    more = b"".join(record[:-1] + bytes([65 + i]) for i in range(20))
    count = struct.unpack_from("<H", data, end + 10)[0] + 20
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(directory + more), first, 0)
    path = tmp_path / "f.pt"
    path.write_bytes(bytes(data[:first]) + directory + more + tail)
    with bounded(), pytest.raises(InputError, match="more bytes than the archive has"):
        read_checkpoint(path)


def test_a_huge_directory_is_refused_before_it_is_listed(tmp_path):
    path = tmp_path / "f.pt"
    path.write_bytes(b"PK\x03\x04" + bytes(100) + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 2**31, 0, 0))
    with pytest.raises(InputError, match="an archive of that many entries"):
        read_checkpoint(path)
    end = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
    locator = struct.pack("<IIQI", 0x07064B50, 0, 4, 1)
    path.write_bytes(b"PK\x03\x04" + end + locator + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 2**32 - 1, 0, 0))
    with pytest.raises(InputError, match="an archive of that many entries"):
        read_checkpoint(path)


def test_a_legacy_file_that_declares_more_than_it_has_is_refused(tmp_path):
    header = MAGIC + pickle.dumps(1001) + pickle.dumps({"little_endian": True})
    body = PROTO + tensor(storage(count=long(2**39)).replace(b"tQ", b"NtQ")) + b"."
    path = tmp_path / "f.pt"
    path.write_bytes(header + body + pickle.dumps(["0"]) + bytes(100))
    with bounded(), pytest.raises(InputError, match="more memory than the file has bytes"):
        read_checkpoint(path)


def test_other_versions_and_byte_orders_are_refused(tmp_path):
    path = tmp_path / "f.pt"
    path.write_bytes(MAGIC + pickle.dumps(1002) + pickle.dumps({}))
    with pytest.raises(InputError, match="version 1002"):
        read_checkpoint(path)
    path.write_bytes(MAGIC + pickle.dumps(1001) + pickle.dumps({"little_endian": False}))
    with pytest.raises(InputError, match="big-endian"):
        read_checkpoint(path)


def tiny() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ADM(ADMConfig(1, 1, 8, (32,), heads=4)).state_dict()


def as_bytes(layout: str, content: object) -> bytes:
    if layout == "safetensors":
        return save(content)  # type: ignore[arg-type]
    if layout == "pickle":
        return pickle.dumps(content)
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=layout == "zip")
    return buffer.getvalue()


LAYOUTS = ("zip", "legacy", "pickle", "safetensors")
FILES = {layout: as_bytes(layout, tiny()) for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_files_cut_anywhere_are_unreadable(tmp_path_factory, layout, data):
    whole = FILES[layout]
    cut = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 3000)))
    path = tmp_path_factory.mktemp("cut") / "f.pt"
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert "\n" not in caught.value.message and len(caught.value.message) < 300


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_files_with_changed_bytes_are_read_or_refused(tmp_path_factory, layout, data):
    """Where the change leaves a file that can be read, its tensors still end inside their storages."""
    whole = bytearray(FILES[layout])
    places = st.one_of(
        st.integers(0, len(whole) - 1), st.integers(0, 4000), st.integers(len(whole) - 4000, len(whole) - 1)
    )
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        whole[place] = value
    path = tmp_path_factory.mktemp("bytes") / "f.pt"
    path.write_bytes(bytes(whole))
    try:
        content = read_checkpoint(path)
        prior = open_prior(path)
    except (InputError, ConfigError) as err:
        assert "\n" not in err.message and len(err.message) < 400
        return
    assert all(isinstance(key, str) for key in content)
    assert prior.info.channels == 1


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_after_a_pickle_header_never_surprise(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("random") / "f.pkl"
    path.write_bytes(PROTO + data + b".")
    try:
        read_checkpoint(path)
    except InputError as err:
        assert err.message.isprintable()


def test_names_in_errors_are_short_and_visible():
    assert printable("os.system") == "os.system"
    assert printable("a\nb\x1b[31mé" + "c" * 200) == "a?b?[31m?" + "c" * 68 + "..."
    assert stacked("a", "b").endswith(b"\x93")
