"""What is masked as a secret, and what must not be."""

import re
from pathlib import Path

import pytest
import yaml

from ttlightning.errors import UserError
from ttlightning.runs.masking import masked, masked_keys, refuse_masked, scrub, without_secrets

HASH = "0123456789abcdef0123456789abcdef01234567"


def test_secrets_and_the_home_folder_are_masked(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("SOME_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("MONKEY", "monkey")  # too short to be one
    assert scrub("--key=0123456789abcdef at /home/ada/data") == "--key=*** at ~/data"
    assert scrub("/home/adam /home/ada /srv/home/ada /home/ada.old") == "/home/adam ~ /srv/home/ada /home/ada.old"
    assert scrub("a monkey") == "a monkey"
    assert masked({"argv": ["/home/ada/x", 3, None], "n": {"m": "0123456789abcdef"}}).content == {
        "argv": ["~/x", 3, None],
        "n": {"m": "***"},
    }


def test_a_home_that_is_the_root_masks_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert scrub("/data and / and /runs") == "/data and / and /runs"


@pytest.mark.parametrize(
    "value",
    [
        "ttlightning",  # the package, an ordinary word
        "TensorTrain",  # a class, and what follows: a format, a data set, a schedule, words of a configuration
        "EqualCoreTensorTrain",
        "fashion_mnist",
        "OneCycleLR",
        "test_after_fit",
        "bf16-mixed",
        "learning",
        "Password",
        "20261125",  # a number
        "short1!",
    ],
)
@pytest.mark.parametrize("variable", ["POSTGRES_PASSWORD", "MY_API_KEY", "PGPASSWORD", "SERVICE_CREDENTIALS"])
def test_a_value_without_a_secrets_look_masks_nothing(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    config = {
        "model": {"format": {"class_path": f"ttlightning.{value}", "init_args": {"name": value}}},
        "data": {"root": f"/data/{value}", "dataset": value},
    }
    assert masked(config) == (config, ())
    assert masked(f"--x={value} {value}") == (f"--x={value} {value}", ())


def test_a_path_that_exists_is_no_secret(monkeypatch, tmp_path):
    folder = tmp_path / "images-of-1999"
    folder.mkdir()
    for variable in ("HOCKEY_DATA", "DATA_KEY", "TOKEN_PATH"):
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.setenv("SECRET_FOLDERS", f"{tmp_path}:{folder}")
    monkeypatch.setenv("OUTPUT_TOKENS", str(folder / "not-yet-there.json"))
    config = {"data": {"root": str(folder)}, "argv": [f"--data.root={folder}", f"{folder}/not-yet-there.json"]}
    assert masked(config) == (config, ())


def test_a_path_that_exists_stays_whole_where_a_part_of_it_is_a_password(monkeypatch, tmp_path):
    monkeypatch.setenv("DB_PASSWORD", "ada-1815-ada")
    folder = tmp_path / "ada-1815-ada"
    folder.mkdir()
    assert masked(["--data.root", str(folder), f"--data.root={folder}"]).names == ()
    assert scrub(f"{folder}/not/there") == f"{tmp_path}/***/not/there"


@pytest.mark.parametrize("variable", ["HOCKEY_DATA", "MONKEY", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PWD", "TURKEY"])
def test_variables_with_similar_names_are_not_masked(monkeypatch, variable):
    monkeypatch.setenv(variable, "x9-0123456789")
    assert scrub("a x9-0123456789 b") == "a x9-0123456789 b"


@pytest.mark.parametrize(
    "variable", ["KEY", "my_api_key", "GH_TOKEN", "SECRETS_FOR_CI", "MYSQL_PWD", "AWS_SECRET_ACCESS_KEY", "AUTHTOKEN"]
)
def test_values_of_secret_variables_are_masked(monkeypatch, variable):
    monkeypatch.setenv(variable, "x9-01/234+789=")
    text = "x9-01/234+789= at https://h/?q=x9-01%2F234%2B789%3D, ax9-01/234+789="
    assert masked(text) == ("*** at https://h/?q=***, ax9-01/234+789=", (f"${variable}",))


def test_the_longer_of_two_secrets_leaves_no_rest(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "horse-battery-1")
    monkeypatch.setenv("B_TOKEN", "horse-battery-1-staple")
    assert scrub("horse-battery-1-staple") == "***"


def test_values_of_secret_keys_are_masked():
    config = {
        "trainer": {
            "logger": {"class_path": "my.Logger", "init_args": {"api_key": "k", "pwd": "w", "keep_token": True}},
            "callbacks": [
                {"init_args": {"userPassword": 12345, "secret": None, "max_token": 9, "token_count": "many"}}
            ],
        },
        "credentials": {"user": "ada", "codes": ["a", "b"]},
        "key": "val/acc",
        "sort_key": "x",
    }
    found = masked(config)
    assert found.content == {
        "trainer": {
            "logger": {"class_path": "my.Logger", "init_args": {"api_key": "***", "pwd": "***", "keep_token": True}},
            "callbacks": [
                {"init_args": {"userPassword": "***", "secret": None, "max_token": 9, "token_count": "many"}}
            ],
        },
        "credentials": {"user": "***", "codes": ["***", "***"]},
        "key": "val/acc",
        "sort_key": "x",
    }
    assert found.names == (
        "trainer.logger.init_args.api_key", "trainer.logger.init_args.pwd",
        "trainer.callbacks.0.init_args.userPassword", "credentials.user", "credentials.codes.0", "credentials.codes.1",
    )  # fmt: skip
    assert masked(found.content) == (found.content, ())  # once masked, it stays as it is


@pytest.mark.parametrize(
    ("words", "expected", "names"),
    [
        (["--wandb.api_key=k k"], ["--wandb.api_key=***"], ["wandb.api_key"]),
        (["--a.token", "t", "--seed", "3"], ["--a.token", "***", "--seed", "3"], ["a.token"]),
        (["--a.token", "--seed", "3"], ["--a.token", "--seed", "3"], []),
        (["--a.max_token=3", "--key", "x"], ["--a.max_token=3", "--key", "x"], []),
        (["--l", '{"token": "t", "a": 1}'], ["--l", '{"token": "***", "a": 1}'], ["token"]),
        (['--l={"api_key":"t"}'], ['--l={"api_key":"***"}'], ["api_key"]),
        (["--l={token: t, n: 2}"], ["--l={token: ***, n: 2}"], ["token"]),
        (["--h=Authorization: Bearer a.b"], ["--h=Authorization: ***"], ["Authorization"]),
        (["--u=h/?token=t&n=2"], ["--u=h/?token=***&n=2"], ["token"]),
        (["--lr", "-0.5", "a  b", "--x y"], ["--lr", "-0.5", "a  b", "--x y"], []),
    ],
)
def test_options(words, expected, names):
    assert masked(words) == (expected, tuple(names))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://ada:pw@host/x", "https://ada:***@host/x"),
        ("git+ssh://ada:p@w:x@host", "git+ssh://ada:***@host"),
        (f"https://{HASH}@github.com/a/b.git", "https://***@github.com/a/b.git"),
        (f"https://{HASH}:x-oauth-basic@github.com", "https://***:***@github.com"),
        ("postgres://:pw@host", "postgres://:***@host"),
        ("ssh://git@github.com/a", "ssh://git@github.com/a"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("http://host:80/a@b", "http://host:80/a@b"),
    ],
)
def test_urls(url, expected):
    assert scrub(f"from {url} on") == f"from {expected} on"


def test_messages_keep_paths_and_names_of_options(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("GH_TOKEN", HASH)
    message = f"/home/ada/x: --a.token=t; 'a.token': must be {HASH}"
    assert without_secrets(message) == "/home/ada/x: --a.token=***; 'a.token': must be ***"


def test_a_masked_value_is_refused():
    config = {"a": [{"token": "***"}], "b": "https://u:***@h", "c": "a *** b", "wandb": {"tags": ["***"]}}
    assert masked_keys(config) == ["a.0.token", "b", "wandb.tags.0"]
    with pytest.raises(UserError, match=r"a\.0\.token, b, which no file keeps; give it again: --a\.0\.token"):
        refuse_masked(config)
    refuse_masked({"c": "a *** b", "wandb": {"tags": ["***"]}})


LOGGER = "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs", "--trainer.logger.prefix"


def test_secrets_of_a_run_and_how_it_goes_on(command, monkeypatch):
    """The issue's own: a password that is the package's name. And a URL's, which the run needs again."""
    monkeypatch.setenv("POSTGRES_PASSWORD", "ttlightning")
    monkeypatch.setenv("DB_PASSWORD", "battery-77")
    done = command("fit", "--config=debug.yaml", "--data.dataset=mnist", "--figures=false", "--wandb.tags=[battery-77]",
                   *LOGGER, "https://ada:lovelace@host")  # fmt: skip
    assert (
        "masked as *** in what this run writes: trainer.logger.init_args.prefix, $DB_PASSWORD; "
        "config.yaml does not keep trainer.logger.init_args.prefix: give it again where the run goes on" in done.stderr
    )
    run = command.folder / "runs/debug/0"
    for file in run.rglob("*"):
        assert file.is_dir() or not any(word in file.read_bytes() for word in (b"lovelace", b"battery-77")), file
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["format"]["class_path"] == "ttlightning.EqualCoreTensorTrain"
    assert config["trainer"]["logger"]["init_args"]["prefix"] == "https://ada:***@host"
    option = "--trainer.logger.init_args.prefix"
    for words in (["test", "--ckpt_path=runs/debug/0"], ["rerun", "runs/debug/0"]):
        assert f"has *** in place of a secret at {option[2:]}" in command(*words, code=2).stderr
    assert [path.name for path in run.parent.iterdir()] == ["0"]
    command("fit", "--config=runs/debug/0/config.yaml", option, "https://ada:lovelace@host", "--trainer.max_epochs=1")
    assert command.result("debug/1")["weights_sha256"] == command.result("debug/0")["weights_sha256"]


def test_a_configuration_outlives_a_password_that_is_any_of_its_words(monkeypatch):
    files = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
    configs = {file.name: yaml.safe_load(file.read_text()) for file in files}
    words = {word for file in files for word in re.findall(r"[\w.]*\w", file.read_text()) if len(word) >= 8}
    assert {"EqualCoreTensorTrain", "offline_fallback"} <= words
    for word in words - {name for name in words if name.endswith(".yaml")}:
        monkeypatch.setenv("POSTGRES_PASSWORD", word)
        assert masked(configs) == (configs, ()), word
