"""The hash of a network's weights, and the lock of a run."""

import errno
import fcntl
import threading
import time

import pytest
import torch

from ttlightning.commands.studies import _alone
from ttlightning.errors import UserError
from ttlightning.runs import run as runs
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.run import lock_run, runs_root


def test_a_hash_that_stays():
    """Of ordinary names, as every version has computed it."""
    state = {"format.first": torch.arange(6.0).reshape(2, 3), "features.bias": torch.tensor(7, dtype=torch.int64)}
    assert weights_sha256(state) == "f587585aed6b5cd377d13ea9e6513232ce5c2e40a14e99622f74e581a2ce89ec"
    assert weights_sha256(dict(reversed(state.items()))) == weights_sha256(state)


ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0])


def swallowed() -> tuple[dict, dict]:
    """Two tensors; and one whose name holds the text that the first of them would leave."""
    text = f"a {ONE.dtype} (1,)\n".encode() + ONE.numpy().tobytes() + b"b"
    return {"a": ONE, "b": TWO}, {text.decode("latin-1"): TWO}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        swallowed(),
        ({"": torch.zeros(0), "x": ONE}, {f" {ONE.dtype} (0,)\nx": ONE}),
        ({"x": torch.zeros(0), "y": ONE}, {f"x {ONE.dtype} (0,)\ny": ONE}),
        ({'"a b"': ONE}, {"a b": ONE}),
        ({"a\u2028b": ONE}, {"a\\u2028b": ONE}),
        ({"\ud83d\ude00 ": ONE}, {"\U0001f600 ": ONE}),
        ({"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.int32)}),
        ({"a": torch.zeros(2, dtype=torch.bfloat16)}, {"a": torch.zeros(2, dtype=torch.float16)}),
        ({"a": torch.zeros(())}, {"a": torch.zeros(1)}),
        ({"a": torch.zeros(0, 3)}, {"a": torch.zeros(0, 4)}),
        ({"a": torch.tensor([1 + 2j])}, {"a": torch.tensor([1 + 2j]).conj()}),
    ],
)
def test_different_states_have_different_hashes(first, second):
    assert weights_sha256(first) != weights_sha256(second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.bool, torch.int8])
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 6)])
def test_every_type_and_shape_has_one(dtype, shape):
    """Of the values, however they lie in memory, and of each of them."""
    values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    digest = weights_sha256({"a": values})
    assert len(digest) == 64
    if values.ndim == 2:
        assert weights_sha256({"a": values.t().contiguous().t()}) == digest
        apart = torch.stack([values, values], dim=-1)[..., 0]
        assert not apart.numel() or not apart.is_contiguous()
        assert weights_sha256({"a": apart}) == digest
    zeros, ones = (weights_sha256({"a": make(shape, dtype=dtype)}) for make in (torch.zeros, torch.ones))
    assert (zeros == ones) == (values.numel() == 0)


def test_a_lazy_conjugate_is_hashed_as_its_values():
    values = torch.tensor([1 + 2j, 3 - 4j])
    assert weights_sha256({"a": values.conj()}) == weights_sha256({"a": values.conj().resolve_conj()})
    assert weights_sha256({"a": values.conj().imag}) == weights_sha256({"a": torch.tensor([-2.0, 4.0])})


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    return tmp_path


@pytest.fixture
def without_locks(monkeypatch):
    """Yields a function that says which error number `flock` gives."""
    runs._warn_that_there_are_no_locks.cache_clear()

    def give(number):
        def flock(*_):
            raise OSError(number, errno.errorcode[number])

        monkeypatch.setattr(fcntl, "flock", flock)

    yield give
    runs._warn_that_there_are_no_locks.cache_clear()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_once(run, without_locks, number):
    without_locks(number)
    with pytest.warns(UserWarning, match="has no locks") as said:
        assert [lock_run(run).close() for _ in range(2)] == [None, None]
    assert len(said) == 1


def test_another_fault_of_a_lock_is_none_of_these(run, without_locks):
    without_locks(errno.EIO)
    with pytest.raises(OSError, match="EIO"):
        lock_run(run)


def test_a_run_is_locked(run):
    held = lock_run(run)
    assert held.writable()  # or NFS gives no lock
    with pytest.raises(UserError, match="is being written by another process"):
        lock_run(run)
    held.close()
    lock_run(run).close()


@pytest.mark.filterwarnings("ignore:the file system of the runs has no locks")
@pytest.mark.parametrize("locks", [True, False])
def test_threads_of_a_study_are_kept_apart_with_locks_and_without(tmp_path, without_locks, locks):
    if not locks:
        without_locks(errno.ENOTSUP)
    inside, most = [], []

    def work():
        with _alone(tmp_path / "x.lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert not (tmp_path / "x.lock").exists()


def test_the_root_of_the_runs_may_begin_with_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TTLIGHTNING_RUNS", "~/my runs")
    assert runs_root() == tmp_path / "my runs"
