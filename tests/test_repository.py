"""What holds for the repository as a whole: who imports whom, and that it speaks for itself
alone."""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")
PACKAGES = CONFIG["options"]["packages"].split()


def sources():
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_imports_run_one_way():
    pytest.importorskip("importlinter")
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "setup.cfg"), no_cache=True) == 0


def test_lora_imports_torch_alone_and_tasks_no_torch():
    """The rooms' own walls, which the layers of import-linter do not see: third parties."""
    allowed = {
        "lora": {"torch", "safetensors", "lora", "einops"},
        "tasks": {"numpy", "tasks"},
        "models": {"torch", "einops", "numpy", "models"},
    }
    for package, names in allowed.items():
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                found = (
                    [node.module]
                    if isinstance(node, ast.ImportFrom)
                    else [a.name for a in getattr(node, "names", [])]
                )
                if isinstance(node, ast.Import | ast.ImportFrom):
                    for name in found:
                        top = name.split(".")[0]
                        assert top in names or top in sys.stdlib_module_names, (
                            f"{path} imports {name}"
                        )


def test_every_package_is_listed_and_the_oldest_python_parses_them():
    folders = [path.parent.relative_to(ROOT) for path in ROOT.glob("[!.]*/**/__init__.py")]
    assert sorted(PACKAGES) == sorted(".".join(folder.parts) for folder in folders)
    assert len(sources()) > 20
    for path in sources():
        ast.parse(path.read_text(), feature_version=(3, 10))


def test_importing_the_library_changes_no_global():
    """Neither the threads, nor the matrix product, nor the default type; matplotlib is not loaded
    unasked."""
    code = (
        "import sys, torch\n"
        "state = lambda: (torch.get_num_threads(), torch.get_default_dtype(),\n"
        "    torch.is_grad_enabled(),\n"
        "    torch.backends.mkldnn.matmul.fp32_precision, torch.random.get_rng_state().sum())\n"
        "before = state()\n"
        "import lora, models, tasks, recycle\n"
        "assert state() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_code_says_what_it_needs():
    listed = CONFIG["options"]["install_requires"] + "".join(
        CONFIG["options.extras_require"].values()
    )
    required = set(re.findall(r"^([\w-]+)", listed.replace("%(test)s", ""), re.M))
    assert {"torch", "numpy", "einops", "tqdm"} <= required
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                top = (name or "").split(".")[0]
                assert top in {*PACKAGES, *required} or top in sys.stdlib_module_names, (
                    f"{path} imports {name}"
                )
