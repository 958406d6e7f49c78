"""Set-up of all tests."""

import os
import sys
import traceback

# No test may reach a model hub, nor wait for one; read when the libraries are imported, also by started processes.
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import pytest
import torch

# The models and tensors of the tests are tiny: waking a second thread takes longer than its share of the work.
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--part", metavar="K/N", help="run the k-th of n parts of the cases of each test")


def pytest_configure(config):
    from tests import case_parts

    try:
        config.part = config.option.part and case_parts.read(config.option.part)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config, items):
    """Mark the cases that take long (see `slow_cases`), and leave out those of other parts (see `case_parts`)."""
    from tests import case_parts, slow_cases

    if config.part:
        names = case_parts.chosen((item.nodeid for item in items), *config.part)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in names])
        items[:] = [item for item in items if item.nodeid in names]

    names = slow_cases.read()
    for item in items:
        if slow_cases.name_of(item.nodeid) in names:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test that is marked `own_process` in a fork: once a process has compiled, its own forks (test_resume)
    cannot take gradients any more."""
    if pyfuncitem.get_closest_marker("own_process") is None or not hasattr(os, "fork"):
        return None
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            names = pyfuncitem._fixtureinfo.argnames
            pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
            failed = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, (
        "it failed in a process of its own: see stderr"
    )
    return True


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk():
    """No test cuts the power; waiting for the disk after each of many thousand files would take minutes."""
    from genscale.storage import durable_files

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable_files, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def browser():
    """A real one; skipped where there is none."""
    from tests.chromium import opened

    with opened() as running:
        yield running


@pytest.fixture(scope="module")
def offline():
    """Without the network: what would be fetched is an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TRANSFORMERS_OFFLINE", "1")
        yield


@pytest.fixture
def genscale(capsys):
    """Run a command: (exit code, stdout, stderr)."""
    from genscale.cli.app import main

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def refused(genscale):
    """Run a command that is refused before it prints anything, in one sentence: what it says."""

    def run(*words):
        code, out, err = genscale(*words)
        assert (code, out) == (2, ""), err
        assert err.startswith("genscale: ")
        assert err.count("\n") == 1
        return err

    return run
