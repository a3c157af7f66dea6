"""The command line as its users see it: processes on an SQLite database."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.acceptance.shell import LIMIT, Shell, statuses

SHOP = """\
heat_template_version: 2018-08-31
parameters:
  greeting: {type: string, default: hello, constraints: [{length: {max: 20}}]}
resources:
  words:
    type: value
    properties: {value: {list_join: [" ", [{get_param: greeting}, world]]}}
  page:
    type: file
    properties: {path: PAGE, content: {get_attr: [words, value]}}
  log:
    type: command
    properties: {create: "echo created >> LOG", update: "echo updated >> LOG", delete: "rm LOG"}
    depends_on: page
outputs:
  words: {value: {get_attr: [words, value]}}
"""

# The main job


def test_a_stack_comes_about_changes_and_goes(shell: Shell) -> None:
    # as its users have it
    shell.forks = False
    shop = SHOP.replace("PAGE", str(shell.folder / "page")).replace(
        "LOG", str(shell.folder / "log")
    )
    shell.write("shop.yaml", shop)

    out, err = shell.run("up", "shop.yaml")
    lines = out.splitlines()
    assert err == ""
    assert lines[0] == "stack 'shop': CREATE started"
    assert re.fullmatch(r"stack 'shop': CREATE COMPLETE in \d+\.\d s", lines[-3])
    assert lines[-2:] == ["outputs:", "  words = hello world"]
    done = [line.split()[1:] for line in lines[1:-3] if "(stack)" not in line]
    assert done == [[name, "CREATE", "COMPLETE"] for name in ("words", "page", "log")]
    times = [line.split()[0] for line in lines[1:-3]]
    assert times == sorted(times)
    assert shell.read("page") == "hello world"

    document = shell.json("up", "shop.yaml", "--param", "greeting=bye")
    assert (document["action"], document["status"]) == ("UPDATE", "COMPLETE")
    assert document["outputs"] == {"words": "bye world"}
    assert document["outcome"] == "started"
    assert shell.read("page") == "bye world"
    assert shell.read("log") == "created\n"

    shown = shell.json("show", "shop")
    assert {**shown, "outcome": "started"} == document
    assert set(statuses(shown).values()) == {"COMPLETE"}
    assert shown["resources"]["page"]["requires"] == ["words"]
    assert shown["progress"]["done"] == shown["progress"]["total"]
    [listed] = shell.json("list")
    assert (listed["name"], listed["status"], listed["version"]) == ("shop", "COMPLETE", 2)
    assert "shop" in shell.run("list")[0].splitlines()[1]
    assert "page [COMPLETE]  requires words\n" in shell.run("graph", "shop")[0]
    assert shell.run("why", "shop")[0] == "the UPDATE is COMPLETE\n"
    happened = shell.json("events", "shop")
    assert [one["id"] for one in happened] == sorted(one["id"] for one in happened)
    assert len(shell.run("events", "shop", "--follow")[0].splitlines()) == len(happened)

    assert shell.json("rollback", "shop")["outputs"] == {"words": "hello world"}
    assert shell.read("page") == "hello world"

    document = shell.json("down", "shop")
    assert (document["action"], document["status"]) == ("DELETE", "COMPLETE")
    assert document["resources"] == {}
    assert shell.run("list")[0] == "no stacks\n"
    assert not {"page", "log"} & shell.names()


def test_a_document_shows_a_page_and_counts_all(shell: Shell) -> None:
    many = "".join(f"  r{number:03}: {{type: none}}\n" for number in range(101))
    shell.write("many.yaml", f"resources:\n{many}")
    document = shell.json("up", "many.yaml")
    assert list(document["resources"]) == [f"r{number:03}" for number in range(100)]
    assert (document["counts"], document["more"]) == ({"COMPLETE": 101}, 1)


def test_a_rollback_can_name_its_version(shell: Shell) -> None:
    for text in ("one", "two", "three"):
        shell.write("a.yaml", f"resources: {{f: {{type: value, properties: {{value: {text}}}}}}}")
        shell.run("up", "a.yaml")
    document = shell.json("rollback", "a", "--to", "1")
    assert document["resources"]["f"]["properties"] == {"value": "one"}
    _, err = shell.run("rollback", "a", "--to", "9", status=2)
    assert err.startswith("converge: error: ")
    # asked for again, it goes no further
    out, _ = shell.run("rollback", "a")
    assert out.startswith("stack 'a' is already rolled back to version 1; choose another")
    assert shell.json("rollback", "a")["outcome"] == "done"
    shell.run("up", "a.yaml", "--stack", "b")
    _, err = shell.run("rollback", "b", status=2)
    assert "`converge rollback b --to empty`" in err
    assert shell.json("rollback", "b", "--to", "empty")["resources"] == {}
    out, _ = shell.run("rollback", "b")
    assert out == "stack 'b' is already rolled back to nothing\n"


def test_what_a_failed_create_never_made_is_not_deleted(shell: Shell) -> None:
    """Both versions name the same thing, and the new one finds it in its way."""
    text = (
        "resources: {a: {type: command, replace: create_first, "
        "properties: {triggers: %d, create: mkdir a, delete: rmdir a}}}"
    )
    for number, status in ((1, 0), (2, 1)):
        shell.write("s.yaml", text % number)
        shell.run("up", "s.yaml", status=status)
    shell.run("rollback", "s")
    assert "a" in shell.names()
    shell.run("down", "s")
    assert "a" not in shell.names()


def test_a_resource_can_be_let_go_of(shell: Shell) -> None:
    text = 'resources: {a: {type: command, properties: {create: "true", delete: "%s"}}}'
    shell.write("s.yaml", text % "exit 3")
    shell.run("up", "s.yaml")
    shell.run("down", "s", status=1)
    # a mended delete is heeded
    shell.write("s.yaml", text % "echo gone > gone")
    shell.run("up", "s.yaml")
    assert shell.read("gone") == "gone\n"
    _, err = shell.run("forget", "s", "b", status=2)
    assert "stack 's' has no resource 'b'" in err
    out, _ = shell.run("forget", "s", "a")
    assert re.match(r"stack 's' has forgotten resource 'a' \(id 2, type 'command', CREATE COM", out)
    assert shell.run("forget", "s", "a")[0] == "stack 's' has already forgotten resource 'a'\n"
    shell.run("up", "s.yaml")
    assert shell.json("forget", "s", "a")["type"] == "command"
    assert shell.json("forget", "s", "a") is None
    assert shell.json("down", "s")["status"] == "COMPLETE"


def test_what_is_asked_for_again_goes_on(shell: Shell) -> None:
    shell.write("a.yaml", "resources: {n: {type: none}}")
    shell.run("up", "a.yaml", "--no-wait")
    assert (
        shell.run("cancel", "a")[0] == "stack 'a': cancelled; running handlers are told to stop\n"
    )
    assert shell.run("cancel", "a")[0] == "stack 'a': already cancelled\n"
    shell.run("up", "a.yaml")
    shell.run("check", "a", "--no-wait")
    assert shell.json("check", "a")["outcome"] == "resumed"
    shell.run("down", "a", "--no-wait")
    assert shell.json("down", "a")["outcome"] == "resumed"
    assert shell.run("down", "a")[0] == "stack 'a' is already deleted\n"
    document = shell.json("down", "a")
    assert (document["status"], document["outcome"]) == ("COMPLETE", "done")


def test_up_without_waiting_leaves_the_work_to_an_engine(shell: Shell) -> None:
    shell.write("a.yaml", "resources: {n: {type: none}}")
    out, _ = shell.run("up", "a.yaml", "--stack", "other name", "--no-wait")
    assert out == "stack 'other name': CREATE started; run `converge engine` to do the work\n"
    assert shell.json("show", "other name")["status"] == "IN_PROGRESS"
    assert "'n'" in shell.run("why", "other name", "n")[0]
    assert shell.run("engine", "--until-idle") == ("", "")
    assert shell.json("show", "other name")["status"] == "COMPLETE"


def test_an_idle_engine_makes_no_database(shell: Shell) -> None:
    shell.run("engine", "--until-idle")
    assert shell.names() == set()


def test_check_finds_what_has_changed(shell: Shell) -> None:
    path = shell.folder / "page"
    shell.write(
        "a.yaml", f"resources: {{f: {{type: file, properties: {{path: {path}, content: x}}}}}}"
    )
    shell.run("up", "a.yaml")
    assert shell.json("check", "a")["status"] == "COMPLETE"
    path.write_text("y")
    document = shell.json("check", "a", status=3)
    assert statuses(document) == {"f": "DRIFTED"}
    assert document["resources"]["f"]["drift"]["properties"] == {
        "content": {"before": "x", "after": "y"}
    }
    shell.run("up", "a.yaml")
    assert path.read_text() == "x"
    path.unlink()
    out, _ = shell.run("check", "a", status=3)
    assert f"  - f (file): it is gone: there is no file '{path}'\n" in out
    document = shell.json("show", "a")
    assert statuses(document) == {"f": "DRIFTED"}
    shell.run("up", "a.yaml")
    assert path.read_text() == "x"


def test_a_command_says_what_has_drifted(shell: Shell) -> None:
    shell.write(
        "a.yaml",
        "resources:\n  f:\n    type: command\n    properties:\n      create: echo 1 > size\n"
        "      update: echo 1 > size\n"
        "      check: 'grep -q 1 size || { echo the size is $(cat size); exit 3; }'\n",
    )
    shell.run("up", "a.yaml")
    shell.write("size", "7\n")
    out, _ = shell.run("check", "a", status=3)
    assert "  ~ f (command): the size is 7" in out
    document = shell.json("show", "a")
    assert statuses(document) == {"f": "DRIFTED"}
    assert document["resources"]["f"]["drift"]["said"] == "the size is 7"
    assert "~ f (command): the size is 7" in shell.run("plan", "a.yaml")[0]
    shell.run("up", "a.yaml")
    assert shell.read("size") == "1\n"
    assert shell.run("check", "a")[1] == ""
    # what cannot be looked at has not drifted
    shell.write("a.yaml", shell.read("a.yaml").replace("exit 3", "exit 4"))
    shell.run("up", "a.yaml")
    shell.write("size", "7\n")
    assert "f CHECK FAILED" in shell.run("check", "a", status=1)[0]


def test_an_update_looks_first_if_it_is_asked_to(shell: Shell) -> None:
    path = shell.folder / "page"
    shell.write(
        "a.yaml", f"resources: {{f: {{type: file, properties: {{path: {path}, content: x}}}}}}"
    )
    # where there is nothing yet, there is nothing to look at
    assert shell.json("up", "a.yaml", "--refresh")["action"] == "CREATE"
    path.write_text("y")
    assert "nothing to do" in shell.run("up", "a.yaml")[0]
    out, _ = shell.run("plan", "a.yaml", "--refresh", "--exit-code", status=3)
    assert "~ f (file): it differs from what it was made to be: content" in out
    assert shell.json("plan", "a.yaml", "--refresh")["counts"] == {"update": 1, "unchanged": 0}
    assert path.read_text() == "y"
    document = shell.json("up", "a.yaml", "--refresh")
    assert (document["action"], statuses(document)) == ("UPDATE", {"f": "COMPLETE"})
    assert path.read_text() == "x"
    _, err = shell.run("up", "a.yaml", "--refresh", "--no-wait", status=2)
    assert "it does not go with --no-wait" in err


def test_check_says_what_it_did_not_look_at(shell: Shell) -> None:
    shell.write(
        "a.yaml",
        "resources: {n: {type: none}, c: {type: command, properties: {create: 'true'}}, "
        "d: {type: command, properties: {create: 'true'}}}",
    )
    shell.run("up", "a.yaml")
    out, _ = shell.run("check", "a")
    unchecked = "not checked, because they have no check: 'c', 'd'"
    assert re.search(rf"CHECK COMPLETE in .* s, {unchecked}$", out, re.MULTILINE)
    document = shell.json("check", "a")
    assert (document["reason"], document["unchecked"]) == (unchecked, ["c", "d"])
    assert shell.json("up", "a.yaml")["unchecked"] == []


def test_a_file_of_the_same_name_does_not_take_a_stack_over(shell: Shell) -> None:
    for folder, text in (("one", "first"), ("two", "second")):
        (shell.folder / folder).mkdir()
        shell.write(
            f"{folder}/app.yaml",
            f"resources: {{f: {{type: value, properties: {{value: {text}}}}}}}",
        )
    shell.run("up", "one/app.yaml")
    before = shell.json("show", "app")
    _, err = shell.run("up", "two/app.yaml", status=2)
    one, two = (str(shell.folder / folder / "app.yaml") for folder in ("one", "two"))
    assert f"stack 'app' was made from {one}, not from {two};" in err
    assert "--stack app" in err
    assert shell.json("show", "app") == before
    shell.run("up", two, "--stack", "other")
    # however the file is called it is the same
    assert shell.json("up", one)["outcome"] == "done"
    # it was moved: from now on it is the other one
    shell.run("up", "two/app.yaml", "--stack", "app")
    shell.run("up", "two/app.yaml")
    shell.run("up", "one/app.yaml", status=2)


# Failures

BROKEN = """\
resources:
  good: {type: command, properties: {create: "true", delete: "echo gone > gone"}}
  bad:
    type: command
    depends_on: good
    properties: {create: "echo boom >&2; exit 3", delete: "true"}
  after: {type: none, depends_on: bad}
"""


def test_a_failure_is_told_and_explained(shell: Shell) -> None:
    shell.write("a.yaml", BROKEN)
    out, _ = shell.run("up", "a.yaml", status=1)
    assert out.count("boom") == 1
    *_, told, last, following = out.splitlines()
    assert told.endswith(" (stack) CREATE FAILED: resource 'bad'")
    assert last.startswith("stack 'a': CREATE FAILED in ")
    assert last.endswith(" s: resource 'bad'")
    assert following == "next: converge why a bad"
    assert shell.run(*following.split()[2:])[0].endswith("create exited with status 3: boom\n")
    document = shell.json("show", "a")
    assert document["status"] == "FAILED"
    assert (statuses(document)["good"], statuses(document)["bad"]) == ("COMPLETE", "FAILED")
    assert shell.run("why", "a")[0].count("boom") == 1
    assert "boom" in shell.json("why", "a", "bad")[0]["message"]
    document = shell.json("up", "a.yaml", status=1)
    assert document["status"] == "FAILED"
    reason = "resource 'bad': create exited with status 3: boom"
    assert document["error"] == {"message": reason, "kind": "StackFailed", "exit": 1}


def test_a_failure_can_roll_back(shell: Shell) -> None:
    shell.write("a.yaml", BROKEN)
    out, _ = shell.run("up", "a.yaml", "--on-failure", "rollback", status=1)
    assert out.count("boom") == 1
    last, following = out.splitlines()[-2:]
    assert last.startswith("stack 'a': ROLLBACK COMPLETE in ")
    assert last.endswith(" s, rolled back: resource 'bad'")
    assert following == "next: converge events a"
    assert "gone" in shell.names()
    assert shell.json("show", "a")["resources"] == {}


# Bad input


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["up", "missing.yaml"], ["missing.yaml", "No such file"]),
        (["up", "."], ["error"]),
        (["up", "empty.yaml"], ["empty.yaml"]),
        (["up", "unknown.yaml"], ["unknown.yaml:1", "'flie'", "did you mean 'file'"]),
        (["up", "cycle.yaml"], ["cycle.yaml", "a", "b"]),
        (["up", "good.yaml", "--param", "nmae=x"], ["nmae", "did you mean 'name'"]),
        (["up", "good.yaml", "--param", "name=xxxxxxxxxx"], ["name"]),
        (["up", "good.yaml", "--stack", "a\nb"], ["unprintable character"]),
        (["up", "good.yaml", "--stack", "x" * 300], ["300 characters"]),
        (["up", " good.yaml"], ["--stack"]),
        (["up", "good.yaml", "--db", "nonsense"], ["database URL"]),
        (["up", "good.yaml", "--db", "sqlite:///nowhere/x.db"], ["nowhere/x.db"]),
        (["up", "good.yaml", "--db", "sqlite:///good.yaml"], ["good.yaml"]),
        (["list", "--db", "sqlite:///other.db"], ["other.db", "db upgrade"]),
        (["list", "--db", "postgresql+psycopg://x@127.0.0.1:1/x"], ["127.0.0.1"]),
        (["up", "good.yaml", "--pass-env", "A=1"], ["--pass-env", "'A=1'"]),
        (["up", "good.yaml", "--file-root", "none"], ["--file-root", "'none' is not a folder"]),
        (["graph", "cycle.yaml"], ["cycle.yaml"]),
        (["graph", "nothing"], ["'nothing'"]),
        (["graph", "good.yaml", "-o", "."], ["it is a folder"]),
        (["graph", "good.yaml", "-o", "nowhere/x.svg"], ["nowhere/x.svg"]),
        (["shwo"], ["did you mean 'show'"]),
        (["db", "current"], ["converge.db"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bad_input_gets_one_message_and_writes_nothing(
    words: list[str], messages: list[str], shell: Shell
) -> None:
    good = "parameters: {name: {type: string, default: x, constraints: [{length: {max: 3}}]}}\n"
    shell.write("good.yaml", good + "resources: {n: {type: none}}\n")
    shell.write(" good.yaml", good + "resources: {n: {type: none}}\n")
    shell.write("empty.yaml", "")
    shell.write("unknown.yaml", "resources: {f: {type: flie}}\n")
    shell.write(
        "cycle.yaml",
        "resources: {a: {type: none, depends_on: b}, b: {type: none, depends_on: a}}\n",
    )
    before = shell.names()
    out, err = shell.run(*words, status=2)
    assert out == ""
    assert err.startswith("converge: error: ")
    assert err.count("converge: error") == 1
    for message in messages:
        assert message in err
    assert shell.names() == before


def test_a_command_sees_what_the_operator_passes_on(shell: Shell) -> None:
    script = "create: 'echo $A$B$CONVERGE_DB'"
    shell.write("a.yaml", f"resources: {{a: {{type: command, properties: {{{script}}}}}}}\n")

    def seen(stack: str, *words: str, **environment: str) -> str:
        variables = {"A": "1", "B": "2", **environment}
        words = ("--stack", stack, *words, "--db", "sqlite:///other.db")
        shell.run("up", "a.yaml", *words, environment=variables)
        return str(shell.json("show", stack, "--db", "sqlite:///other.db")["resources"]["a"])

    shell.run("db", "upgrade", "--db", "sqlite:///other.db")
    secret = {"CONVERGE_DB": "sqlite:///nowhere"}
    assert "'stdout': ''" in seen("none", **secret)
    assert "'stdout': '2'" in seen("option", "--pass-env", "B", CONVERGE_PASS_ENV="A")
    assert "'stdout': '12'" in seen("variable", CONVERGE_PASS_ENV="A B")
    assert "'stdout': '12'" in seen("commas", CONVERGE_PASS_ENV="A,B")


def test_files_are_where_the_operator_wants_them(shell: Shell) -> None:
    for name in "ab":
        shell.write(
            f"{name}.yaml",
            f"resources: {{a: {{type: file, properties: {{path: {name}.txt, content: x}}}}}}",
        )
    inside = {"CONVERGE_FILE_ROOT": os.pathsep.join([str(shell.folder / "tests"), "."])}
    (shell.folder / "tests").mkdir()
    (shell.folder / "other").mkdir()
    shell.run("up", "a.yaml", environment=inside)
    outside = {"CONVERGE_FILE_ROOT": "other"}
    out, _ = shell.run("up", "b.yaml", environment=outside, status=1)
    assert "the allowed roots" in out
    shell.run("up", "b.yaml", "--file-root", ".", environment=outside)
    _, err = shell.run("up", "a.yaml", environment={"CONVERGE_FILE_ROOT": "none"}, status=2)
    assert "CONVERGE_FILE_ROOT: 'none' is not a folder" in err


def test_a_file_that_is_there_is_refused_or_adopted(shell: Shell) -> None:
    page = shell.folder / "page"
    page.write_text("mine")

    def up(name: str, content: str, more: str = "", status: int = 0) -> str:
        properties = f"{{path: page, content: '{content}'{more}}}"
        shell.write("a.yaml", f"resources: {{{name}: {{type: file, properties: {properties}}}}}")
        return str(shell.run("up", "a.yaml", status=status)[0])

    assert "already exists, and this resource did not make it" in up("a", "1", status=1)
    shell.run("down", "a")
    assert page.read_text() == "mine"
    up("a", "1", ", adopt: true")
    # of the same stack, one with another name takes it over, and gives it back
    up("b", "2", ", adopt: true")
    assert page.read_text() == "2"
    shell.run("rollback", "a")
    assert page.read_text() == "1"
    shell.write("c.yaml", shell.read("a.yaml").replace(", adopt: true", ""))
    assert "already exists" in shell.run("up", "c.yaml", status=1)[0]
    shell.run("down", "a")
    assert page.read_text() == "mine"


def test_what_does_not_exist_is_named(shell: Shell) -> None:
    shell.write("shop.yaml", "resources: {page: {type: none}}")
    shell.run("up", "shop.yaml")
    for words in (["show", "shpo"], ["down", "shpo"], ["graph", "shpo"], ["events", "shpo"]):
        out, err = shell.run(*words, status=2)
        assert out == ""
        assert "'shpo'; did you mean 'shop'?" in err
    assert "did you mean 'page'?" in shell.run("why", "shop", "paeg", status=2)[1]
    assert "nothing to cancel" in shell.run("cancel", "shop", status=2)[1]


def test_a_read_only_database_says_so(shell: Shell) -> None:
    shell.write("a.yaml", "resources: {n: {type: none}}")
    shell.run("up", "a.yaml")
    shell.write("a.yaml", "resources: {m: {type: none}}")
    _, err = shell.run(
        "up", "a.yaml", "--db", "sqlite:///file:converge.db?mode=ro&uri=true", status=2
    )
    assert "read-only" in err


# Graphs


def test_any_heat_template_can_be_drawn(shell: Shell) -> None:
    shell.write(
        "heat.yaml",
        "heat_template_version: rocky\n"
        "resources:\n"
        "  net: {type: 'OS::Neutron::Net'}\n"
        "  vm:\n"
        "    type: OS::Nova::Server\n"
        "    properties: {x: {if: [c, {repeat: {template: {get_resource: net}}}, 1]}}\n",
    )
    assert "  vm  requires net\n" in shell.run("graph", "heat.yaml")[0]
    assert '"vm" -> "net";' in shell.run("graph", "heat.yaml", "--format", "dot")[0]
    assert "n2 --> n1" in shell.run("graph", "heat.yaml", "--format", "mermaid")[0]
    assert shell.json("graph", "heat.yaml")["nodes"][-1] == {
        "name": "vm",
        "status": None,
        "requires": ["net"],
    }
    assert shell.run("graph", "heat.yaml", "-o", "heat.svg") == ("", "")
    root = ElementTree.fromstring(shell.read("heat.svg"))
    assert "vm requires net" in "".join(root.itertext())
    assert shell.names() == {"heat.yaml", "heat.svg"}


# The database


def test_another_database_must_be_prepared(shell: Shell) -> None:
    shell.write("a.yaml", "resources: {n: {type: none}}")
    url = "sqlite:///other.db"
    assert "db upgrade" in shell.run("up", "a.yaml", "--db", url, status=2)[1]
    assert "CREATE TABLE" in shell.run("db", "sql", "--db", url)[0]
    assert "other.db" not in shell.names()
    assert "version" in shell.run("db", "upgrade", "--db", url)[0]
    assert shell.run("db", "check", "--db", url)[0] == "the schema is up to date\n"
    version = shell.run("db", "current", environment={"CONVERGE_DB": url})[0].strip()
    assert shell.run("db", "upgrade", "--db", url)[0].endswith(f"{version}\n")
    shell.run("up", "a.yaml", environment={"CONVERGE_DB": url})
    assert [one["name"] for one in json.loads(shell.run("--db", url, "list", "--json")[0])] == ["a"]
    assert "converge.db" not in shell.names()


# Scripts and pipes


def test_a_plan_is_for_scripts_too(shell: Shell) -> None:
    shell.write("a.yaml", "resources: {n: {type: none, properties: {a: 1}}}")
    assert "1 to create" in shell.run("plan", "a.yaml")[0]
    assert "converge.db" not in shell.names()
    _, err = shell.run("up", "a.yaml", "--plan", status=2)
    assert "add --yes" in err
    out, _ = shell.run("up", "a.yaml", "--plan", "--yes")
    assert "1 to create" in out
    assert "CREATE COMPLETE" in out
    assert shell.run("plan", "a.yaml", "--exit-code")[0].endswith("nothing to do, 1 unchanged\n")
    shell.write("a.yaml", "resources: {n: {type: none, properties: {a: 2}}, m: {type: none}}")
    shell.run("plan", "a.yaml", "--exit-code", status=3)
    document = shell.json("plan", "a.yaml")
    assert document["counts"] == {"create": 1, "update": 1, "unchanged": 0}
    (changed,) = (one for one in document["changes"] if one["resource"] == "n")
    assert changed["properties"] == {"a": {"before": 1, "after": 2, "sure": True}}


def test_a_pipe_that_is_closed_ends_quietly(shell: Shell) -> None:
    names = ", ".join(f"resource_{number}: {{type: none}}" for number in range(5000))
    shell.write("many.yaml", f"resources: {{{names}}}")
    process = shell.start("graph", "many.yaml")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("many: 5000 resources")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=LIMIT) == 141


def test_hostile_names_are_harmless(shell: Shell) -> None:
    shell.write("a.yaml", "resources: {'[bold]é \"q\" <x>': {type: none}}")
    shell.run("up", "a.yaml", "--stack", "[red]'☃'")
    assert "☃" in shell.run("list")[0]
    assert '"[bold]é \\"q\\" <x>"' in shell.run("graph", "[red]'☃'")[0]
    # what Python reads when it begins
    shell.forks = False
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    assert "\\u2603" in shell.run("list", environment=ascii_only)[0]
    listed = json.loads(shell.run("list", "--json", environment=ascii_only)[0])
    assert listed[0]["name"] == "[red]'☃'"
