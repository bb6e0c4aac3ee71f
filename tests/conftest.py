"""Every test runs on one thread, and on the CPU unless asked otherwise."""

import pytest
import torch

import cases
from energyscape.cli import main


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the tests of the core put their tensors")


def pytest_configure(config):
    cases.DEVICE = torch.device(config.getoption("--device"))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """The command line in a folder of its own: words to exit status, output and complaints."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return call
