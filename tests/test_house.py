"The layout of the project: imports point up, functions stay short, notebooks stay clean"
import ast
import configparser
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/"nbs").glob("*.ipynb"))
MEGABYTES = 1.5

def cells(path): return json.loads(path.read_text())["cells"]

def order():
    names = [re.search(r"#\| *default_exp (\w+)", "".join(c["source"])) for p in NOTEBOOKS for c in cells(p)]
    return [m[1] for m in names if m]

def tree(module): return ast.parse((ROOT/"audiotag"/f"{module}.py").read_text())

def imported(module):
    "Modules of ours that this one needs to run; not those that are named in annotations alone"
    body = tree(module)
    blocks = [n for n in body.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    typing = {id(node) for block in blocks for node in ast.walk(block)}
    for node in (node for node in ast.walk(body) if id(node) not in typing):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("audiotag."))
        elif isinstance(node, ast.ImportFrom):
            name = (node.module or "") if node.level else (node.module or "").removeprefix("audiotag").lstrip(".")
            if node.level or (node.module or "").split(".")[0] == "audiotag":
                yield from [name] if name else [a.name for a in node.names]

def test_modules_import_only_earlier_chapters():
    position = {module: i for i, module in enumerate(order())}
    wrong = {(m, other) for m in position for other in imported(m) if position[other] >= position[m]}
    assert not wrong, sorted(wrong)

def test_serving_imports_no_training_code():
    "Also not inside functions: a bundle is read, tagged and shown without torch"
    serving = {"core", "audio", "mel", "bundle", "tagger", "batch", "figures", "webapp"}
    outside = {(m, other) for m in serving & set(order()) for other in imported(m) if other not in serving}
    assert outside == set()
    heavy = {"torch", "fastai", "torchaudio", "pandas", "sklearn", "librosa", "safetensors"}
    for module in serving - {"mel"}:  # the centers of mel bands are computed with librosa, when a bundle is written
        nodes = [n for n in ast.walk(tree(module)) if isinstance(n, (ast.Import, ast.ImportFrom))]
        named = {(n.module or "") if isinstance(n, ast.ImportFrom) else a.name for n in nodes for a in n.names}
        assert {name.split(".")[0] for name in named} & heavy == set()

def test_the_notebooks_are_a_table_of_contents():
    numbers = [re.fullmatch(r"(\d\d)_[a-z0-9_]+", p.stem) for p in NOTEBOOKS]
    assert all(numbers), [p.stem for p, number in zip(NOTEBOOKS, numbers) if not number]
    chapters = [int(number[1]) for number in numbers]
    assert len(set(chapters)) == len(chapters) and sum(n < 40 for n in chapters) <= 33
    modules = {p.stem for p in (ROOT/"audiotag").glob("[!_]*.py")}
    assert modules == set(order()) and len(modules) <= 32

def defined(module):
    "The names that a module defines or imports"
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): yield node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)): yield from (a.asname or a.name for a in node.names)

def test_what_strings_import_exists():
    "Code for other processes stands in strings, where no import checker looks"
    names = {p.stem: set(defined(p.stem)) for p in (ROOT/"audiotag").glob("*.py")}
    folders = {"audiotag": "[!_]*.py", "tests": "*.py", "benchmarks": "*.py", "nbs": "*.ipynb"}
    files = [p for folder, pattern in folders.items() for p in (ROOT/folder).glob(pattern)]
    files += [ROOT/name for name in ("README.md", "CONTRIBUTING.md", "settings.ini", "ruff.toml", "setup.py", "app.py")]
    known = names.keys() | {"json", "nothing"}  # a marker file; a module that a test misses
    unknown = []
    for path in files:
        text = path.read_text()
        modules = {a or b for a, b in re.findall(r"\baudiotag(?:\.([a-z]\w+)|/(\w+)\.py)\b", text)}
        unknown += [(path.name, module) for module in modules - known]
        for module, line in re.findall(r"from audiotag\.(\w+) import (\w+(?:, ?\w+)*)", text):
            unknown += [(path.name, module, name) for name in re.split(", ?", line) if name not in names[module]]
    assert unknown == []

@pytest.mark.parametrize("module", order())
def test_functions_are_short_and_exports_say_what_they_do(module):
    body = tree(module)
    functions = [n for n in ast.walk(body) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert [f.name for f in functions if f.end_lineno-f.lineno+1 > 40] == []
    assigned = {getattr(n.targets[0], "id", ""): n.value for n in body.body if isinstance(n, ast.Assign)}
    exported = ast.literal_eval(assigned["__all__"]) if "__all__" in assigned else []
    definitions = [n for n in body.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in exported]
    assert [n.name for n in definitions if not ast.get_docstring(n)] == []

def test_lines_have_at_most_120_characters():
    long = []
    files = [p for folder in ("audiotag", "tests", "benchmarks") for p in (ROOT/folder).glob("*.py")]
    for path in (p for p in files if p.stem != "_modidx"):
        # nbdev wraps __all__ at 130
        text = re.sub(r"(?s)^__all__ = \[.*?\]$", "", path.read_text(), count=1, flags=re.MULTILINE)
        long += [f"{path.name}: {line[:60]}" for line in text.splitlines() if len(line) > 120]
    assert long == []

def test_the_readme_is_short_and_names_every_notebook():
    text = (ROOT/"README.md").read_text()
    assert len(text.splitlines()) < 200
    assert [p.stem for p in NOTEBOOKS if f"| [{p.stem}](" not in text] == []

def test_the_citation_has_its_keys_and_the_version():
    keys = dict(re.findall(r"^([a-z-]+): *(.*)$", (ROOT/"CITATION.cff").read_text(), re.MULTILINE))
    settings = configparser.ConfigParser()
    settings.read(ROOT/"settings.ini")
    assert {"cff-version", "message", "title", "authors", "version"} <= set(keys)
    assert keys["version"] == settings["DEFAULT"]["version"]

@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_small_and_their_outputs_clean(path):
    assert path.stat().st_size <= MEGABYTES*1e6
    assert all("".join(c["source"]).strip() for c in cells(path)), "an empty cell"
    outputs = [o for c in cells(path) for o in c.get("outputs", [])]
    text = "\n".join("".join(o.get("text", [])) + "".join(o.get("data", {}).get("text/plain", [])) for o in outputs)
    assert re.findall(r"/(?:work|home|root|tmp|Users)/\S*|\w*Warning:.*", text) == []
