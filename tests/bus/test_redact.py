"""What is a secret, by its name or by its own shape, and what is not."""

import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elastic_events import Event, EventSource, NodeState, construct_and_record_rdzv_event, record
from elastic_events.bus import redact
from elastic_events.bus.codec import LIMIT
from elastic_events.bus.redact import Redactor, cut_secrets
from elastic_events.bus.walk import Walk
from elastic_events.testing import capture
from elastic_metrics import put_metric

SECRET_NAMES = (
    *("api_key", "openaiApiKey", "auth_token", "awsAccessKeyId", "aws_secret_access_key", "passphrase", "pwd", "jwt"),
    *("dsn", "SENTRY_DSN", "connection_string", "azureConnectionString", "connStr", "bearer", "bearerToken", "auth"),
    *("password", "PASSWORD", "PGPASSWORD", "db.password", "passwd", "userPasswd", "client_secret", "clientSecret"),
    *("secret", "secrets", "SecretKey", "private_key", "privateKeyPem", "ssh_key", "wandb_api_key", "WANDB_KEY"),
    *("HF_TOKEN", "hfToken", "github_token", "access_token", "refreshToken", "session_token", "csrf-token", "token"),
    *("Authorization", "proxy-authorization", "cookie", "Set-Cookie", "credentials", "gcpCredentials", "creds"),
    *("encryption_key", "signingKey", "storage_account_key", "db_pass", "oauth_code", "x-api-key", "apikey", "API Key"),
    *("access_tokens", "api_token_2", "key", "totp", "github_pat", "GITLAB_PAT", "session_key", "githubPat "),
    *("SSH_PASS", "mail_pass", "KAGGLE_KEY", "AZURE_STORAGE_KEY", "trainer.hub_token"),
)

PLAIN_NAMES = (
    *("num_tokens", "tokens_per_second", "max_tokens", "tokenizer", "sort_key", "pad_token_id", "monkey", "keyboard"),
    *(
        "tokens",
        "token_count",
        "token_ids",
        "eos_token",
        "bosToken",
        "pad_token",
        "mask_token",
        "unk_token",
        "numTokens",
    ),
    *(
        "tokenizer_name",
        "tokenizerPath",
        "special_tokens",
        "image_token",
        "max_new_tokens",
        "input_tokens",
        "token_type",
    ),
    *(
        "n_tokens_seen",
        "tokens_total",
        "stop_token",
        "cache_key",
        "partitionKey",
        "primary_key",
        "group_key",
        "dict_key",
    ),
    *(
        "key_value_heads",
        "num_key_value_heads",
        "key_padding_mask",
        "query_key",
        "public_key",
        "keys",
        "hotkey",
        "turkey",
    ),
    *(
        "metric_key",
        "monitor_key",
        "author",
        "authors",
        "authority",
        "auth_method",
        "forward_pass",
        "bypass",
        "compass",
    ),
    *("passes", "secretary", "pin_memory", "seed", "run_id", "host", "rank", "dataset", "connection", "string", "jaw"),
    *("storage_key", "objectStorageKey", "pat", "pattern", "patience", "spat"),
    *("discount", "decoder_start_token", "token_dropout", "registry", "signature", "credits"),
    *("tokenizer.pad_token", "model/eos_token", "think_token", "assistant_token", "src_token", "word_delimiter_token"),
)

KEY = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6"
JOINED = "-".join  # so that no whole key stands in this file

SECRET_VALUES = (
    *(f"Bearer {KEY}", f"curl -H 'Authorization: Bearer {KEY}'", f"authorization: Basic {KEY}", f"bearer {KEY}"),
    *(f"postgres://u:{KEY}@db/x", f"see nats://{KEY}@host:4222/s", f"https://joe:{KEY}/#,@h", f"redis://:{KEY}@h"),
    *(f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----", f"-----BEGIN PRIVATE KEY-----\n{KEY}"),
    *(JOINED(("sk", KEY)), JOINED(("sk", "ant", KEY)), f"hf{'_'}{KEY}", f"ghp{'_'}{KEY}", f"github_pat{'_'}{KEY}"),
    *(JOINED(("glpat", KEY)), JOINED(("xoxb", KEY)), f"AKIA{'ABCDEFGHIJKLMNOP'}", f"eyJ{KEY}.eyJ{KEY}.{KEY}"),
    *(f"train.py --password {KEY} --lr 1", f"--api-key={KEY}", f"run --token '{KEY}'", f"-password {KEY}"),
    *(f"password={KEY}", f"WANDB_API_KEY={KEY} python x", f'{{"client_secret": "{KEY}", "n": 1}}', f"token={KEY}"),
    *(f"Server=h;User=u;Password={KEY};", f"passphrase: {KEY}", f"url=x password='{KEY}'", f"a=b&access_token={KEY}"),
    *(
        f"AUTHORIZATION: BASIC {KEY}",
        f"authorization: basic {KEY}",
        f"password   =   {KEY}",
        f'{{\\"secret\\": \\"{KEY}\\"}}',
    ),
    *(
        f"{{'password': b'{KEY}'}}",
        f"{{'passwords': ['x', '{KEY}']}}",
        f'password="x\\"{KEY}"',
        f"secret='{'x' * 300}{KEY}'",
    ),
    *(f"curl -u joe:{KEY} http://a.example", f"curl --proxy-user 'joe:{KEY}' x", f"mysql -u root -p {KEY}"),
    *(f"mysqldump -uroot -p{KEY} db", f"docker login -p {KEY} --username joe", f"sshpass -p '{KEY}' ssh h"),
    *(f"Cookie: sid={KEY}; theme=dark", f"curl -H 'Cookie: a=b; sid={KEY}'", f"Set-Cookie: sid={KEY}; Path=/"),
    *(f"joe:{KEY}@db.example/runs", f"db_url=joe:{KEY}@10.0.0.1:5432/runs", f"see github_pat{'_'}11ABCDEF_{KEY}"),
    *(f"https://hooks.slack.com/services/T0/B0/{KEY}", f"https://chat.example/api/webhooks/123/{KEY}"),
    *(JOINED(("sk", "proj", f"ab_{KEY}")), f"hf{'_'}QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi{KEY}"),
    *(f"redis-cli -h db -p 6379 -a {KEY} ping", f"wandb login --relogin {KEY}", f"wandb login {KEY}"),
    *(f"redis-cli -h db --pass {KEY} ping", f"wandb login --host=https://w.example.com {KEY}"),
    f"wandb login --relogin --host https://w.example.com {KEY}",
    *(f"machine api.wandb.ai login user password {KEY}", f"machine h\n  login u\n  password {KEY}\n", f"?key={KEY}"),
    f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{KEY}\n-----END PGP PRIVATE KEY BLOCK-----",
    *(f"https://b.example/x?X-Amz-Date=1&X-Amz-Signature={KEY}", f"https://a.example/c?sv=2020&sig={KEY}&se=1"),
    *(f'{{"secrets": {{"a": {{"b": "x"}}, "c": "{KEY}"}}}}', f'{{\\"secrets\\": {{\\"a\\": \\"{KEY}\\"}}}}'),
    *(
        f'{{"secrets": {{"a": "}}", "b": "{KEY}"',
        f"Namespace(password=SecretStr('{KEY}'))",
        f"auth=Basic(value='{KEY}')",
    ),
    *(f"api_key: |\n  {KEY}\nlr: 1", f'[{{"name": "HF_TOKEN", "value": "{KEY}"}}]', f'[["X-Api-Key", "{KEY}"]]'),
    *(f'{{\\"secrets\\": [\\"a]{KEY}\\"]}}', f'{{\\"secrets\\": [\\"a\\\\\\"]{KEY}\\"]}}'),
    *(f"secret: |\r\n  {KEY}\r\nlr: 1", f"secret: >-\n  a\n\n  {KEY}\n"),
    *(f"[('lr', 1), ('WANDB_API_KEY', '{KEY}')]", f"curl -ujoe:{KEY} x", f"xai-{KEY}{KEY}", f"SG.{KEY}.{KEY}"),
)

PLAIN_VALUES = (
    *("s3://bucket/checkpoints/step-100", "http://10.0.0.1:29500", "tcp://host:4222/a@b", "git@github.com:a/b.git"),
    *("ssh://git@github.com/a/b", "https://example.com:8080/@vite/x", "joe@example.com", "unexpected token: <pad>"),
    *("KeyError: 'loss'", "bearer of news", "the tokenizer has 32000 tokens", "--num-tokens 5 --pad-token <pad>"),
    *("max_tokens=4096", "sort_key=loss", "key: loss", "lr=0.1 momentum=0.9", "task-0123456789012345678901", "</s>"),
    *("CUDA out of memory. Tried to allocate 2.00 GiB", "0123456789abcdef0123456789abcdef01234567", "node-0017:29500"),
    *("5f3c2a10-7b6d-4e8f-9a01-23456789abcd", "-----BEGIN CERTIFICATE-----\nMIIB", "2026-01-01T00:00:00Z", "--lr -1"),
    *(
        "x = passes(1)",
        "design=flat&config=a?b=c",
        "RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:1",
        "model.layers.0.k_proj.weight: nan",
        "a",
    ),
    *("sk-learn-random-forest-classifier-v2", "sk-learn-0123456789abcdef0123", "sk-image-denoise-wavelet-baseline"),
    *(
        "hf_BertForSequenceClassificationTrainer",
        "hf_LlamaForCausalLMWithValueHead2Eval",
        "hf_transformerstokenizersfastversion",
    ),
    *(
        "python -u train.py -p 8080",
        "python -u train.py -p resume",
        "mkdir -p out",
        "docker run -u 1000:1000 -p 80:80 x",
    ),
    *(
        "srun -p gpu -u train.sh",
        "sudo -u joe mkdir -p data",
        "sbatch -p gpu --user joe run.sh",
        "key=loss",
        "f(key=val_loss)",
    ),
    *("worker:0@node-7/gpu", "mailto:joe@example.com/x", "img:v1@sha256:0123456789abcdef", "cookie: chocolate"),
    *(
        "hooks.example.com/hooks/pre-commit",
        "https://api.example/v1/hooks/list",
        "curl -u https://x.example",
        "-u 0:0",
    ),
    *("mysqldump -u joe --port 3306", "ssh -p 2222 joe@host", "srun -p gpu -u python t.py", "squeue -u joe -p gpu"),
    *("please set tokenizer.pad_token = tokenizer.eos_token", "--tokenizer.eos_token '</s>'", "curl -u 1000:1000 x"),
    *('{"name": "loss", "value": "0.5"}', '["password", "x"]', "[('lr', '1'), ('step', '3')]"),
)

ARGUMENTS = (  # what a list holds, and the place that is cut, of what is left
    (("t.py", "--db-password", "s3cret", "--num-tokens", "5"), 2, "[redacted]"),
    (("curl", "-u", "joe:s3cret", "http://a.example"), 2, "joe:[redacted]"),
    (("mysql", "-u", "root", "-p", "s3cret"), 4, "[redacted]"),
    (("sudo", "-u", "joe", "mkdir", "-p", "data"), 5, "data"),
    (("mysql", "-uroot", "-ps3cret", "runs"), 2, "-p[redacted]"),
    (("docker", "login", "-p", "s3cret", "--username", "joe"), 3, "[redacted]"),
    (("curl", "-H", "Cookie: sid=s3cret"), 2, "Cookie: [redacted]"),
    (("curl", "-ujoe:s3cret", "http://a.example"), 1, "-ujoe:[redacted]"),
    (("docker", "run", "-u", "1000:1000", "-p", "80:80"), 0, "docker"),
    (("srun", "-p", "gpu", "-u", "python", "t.py"), 0, "srun"),
    (("python", "-u", "t.py", "-p", "resume", "-pretrained"), 0, "python"),
    ((3, "-p", "x", "-u", 7), 0, 3),
)


def event(metadata: dict[str, Any]) -> Event:
    """Return an event that carries `metadata`."""
    return Event("e", EventSource.WORKER, metadata=metadata)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_shows_by_its_name(name: str) -> None:
    """What opens something is redacted by the words of its name, however they are joined (F63)."""
    with capture() as seen:
        record(event({name: "s3cret"}))
    assert seen.events[0].metadata == {name: "[redacted]"}


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_what_training_is_about_stays(name: str) -> None:
    """Tokens that are counted, keys that sort and words that only look alike are recorded as they are (F63)."""
    with capture() as seen:
        record(event({name: "loss"}))
    assert seen.events[0].metadata == {name: "loss"}


@pytest.mark.parametrize("value", SECRET_VALUES)
def test_a_secret_shows_by_its_value(value: str) -> None:
    """A text that carries a secret loses it, under any key and at any depth, the first time and every time (F63)."""
    with capture() as seen:
        for _ in range(2):
            record(event({"note": value}))
            record(event({"notes": [{"deep": value}]}))
    recorded = repr([event.metadata for event in seen.events])
    assert recorded.count("[redacted]") >= 4
    assert KEY not in recorded
    assert "ABCDEFGHIJKLMNOP" not in recorded


@pytest.mark.parametrize("value", PLAIN_VALUES)
def test_plain_text_stays(value: str) -> None:
    """Text without a secret is recorded as it is, whatever marks it has."""
    with capture() as seen:
        for _ in range(2):
            record(event({"note": value, "notes": [value]}))
    assert [event.metadata for event in seen.events] == [{"note": value, "notes": [value]}] * 2


@pytest.mark.parametrize("number", [0, 17, 2**70, 0.5, True, False, None])
def test_a_number_is_never_a_secret(number: Any) -> None:
    """A number, True, False or None under any name stays: it counts something."""
    with capture() as seen:
        record(event({"token": number, "deep": {"password": number}}))
    kept = str(number) if number == 2**70 else number
    assert seen.events[0].metadata == {"token": kept, "deep": {"password": kept}}


@pytest.mark.parametrize(("arguments", "place", "kept"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_arguments_in_a_list_are_redacted_behind_their_flag(arguments: tuple[Any, ...], place: int, kept: Any) -> None:
    """`--password x`, `-u name:x` and `-p x` beside a user are cut in a list of arguments as they are in a line."""
    with capture() as seen:
        for _ in range(2):
            record(event({"argv": list(arguments)}))
    expected = [*arguments[:place], kept, *arguments[place + 1 :]]
    assert [one.event.metadata["argv"] for one in seen] == [expected] * 2


class Word(str):
    """A text of another class, as NumPy's are."""

    __slots__ = ()


PAIRS = (
    [(Word("HF_TOKEN"), KEY)],
    [["HF_TOKEN", KEY], ["lr", "0.1"]],
    (("authorization", f"Basic {KEY}"),),
    [(b"x-api-key", KEY.encode())],
    {"env": [{"name": "HF_TOKEN", "value": KEY}]},
    [{"Key": "DB_PASSWORD", "Value": [KEY]}, {"key": "client_secret", "value": KEY * 30}],
    {"name": "wandb_api_key", "value": KEY},
    {"name": "DB_PASSWORD", "value": [KEY]},
    [{"Value": {"name": KEY}, "key": "DB_PASSWORD"}],
)


@pytest.mark.parametrize("value", PAIRS, ids=lambda value: str(value)[:20])
def test_a_name_and_its_value_in_a_pair_are_looked_at_together(value: Any) -> None:
    """Headers and variables that come as pairs, or as dicts of a name and a value, lose their secrets as in a dict."""
    with capture() as seen:
        for _ in range(3):
            record(event({"given": value}))
    recorded = [repr(one.metadata) for one in seen.events]
    assert KEY not in recorded[0]
    assert recorded[0] == recorded[1] == recorded[2]
    assert "[redacted]" in recorded[0]


def test_a_value_whose_name_is_left_out_is_a_secret() -> None:
    """Where a dict of a name and its value is cut between the two, nobody knows what the value is."""
    for count in range(100, 150):
        variables = [{"value": "hunter" * 12, "name": "DB_PASSWORD"}] * count
        assert "hunter" not in repr(Walk(Redactor(), room=LIMIT).fields([{"env": variables}]))


@pytest.mark.parametrize(
    "value",
    [
        [["lr", "0.1"], ["token", 5], ["pad_token", "<pad>"]],
        [{"name": "loss", "value": "0.5"}, {"name": "password", "value": 3}],
        ["password", "name"],
        {"value": "x", "password_count": 3},
        [{"name": "HF_TOKEN"}, {"value": "x"}],
    ],
)
def test_a_pair_of_other_things_stays(value: Any) -> None:
    """A pair that names no secret, a number, and two texts in a list of their own are recorded as they are."""
    with capture() as seen:
        for _ in range(2):
            record(event({"given": value}))
    assert [one.metadata for one in seen.events] == [{"given": value}] * 2


def test_a_secret_at_the_end_of_a_cut_text_is_found() -> None:
    """Where a long text is cut in the middle of a secret, its first half is not kept."""
    text = "x" * 4080 + f" postgres://joe:{KEY}@db " + "y" * 30_000
    with capture() as seen:
        record(event({"text": text}))
    assert KEY[:4] not in seen.events[0].metadata["text"]


@pytest.mark.parametrize("filler", ["x ", f"password: {KEY} ", f"token={'y' * 600} "])
def test_what_is_before_the_end_of_a_cut_text_does_not_come_back(filler: str) -> None:
    """Where secrets leave the end of a long text shorter, no more of what is before it stays: the name of that is cut off."""
    for shift in range(0, 700, 13):
        text = "x" * 30_000 + f" password: {KEY} {'z' * shift} " + (filler * 8192)[: 8192 + 300]
        with capture() as seen:
            record(event({"text": text}))
        assert KEY[:12] not in seen.events[0].metadata["text"]


def test_no_redaction_where_none_is_wanted() -> None:
    """`redact=None` leaves names and texts alone."""
    with capture(redact=None) as seen:
        record(event({"token": "t", "note": f"Bearer {KEY}"}))
    assert seen.events[0].metadata == {"token": "t", "note": f"Bearer {KEY}"}


def test_a_pattern_of_ones_own_is_asked_of_the_key_and_of_its_words() -> None:
    """`redact=` finds a key as it is written and in its words, in any case."""
    with capture(redact="(?:^|_)badge(?:_|$)") as seen:
        record(event({"doorBadge": "x", "BADGE": "x", "badger": "x", "token": "x"}))
    hidden = "[redacted]"
    assert seen.events[0].metadata == {"doorBadge": hidden, "BADGE": hidden, "badger": "x", "token": "x"}


@pytest.mark.parametrize(
    "text",
    [
        "a" * 16_000,
        "a://b:" * 2500,
        "--a " * 4000,
        "a=" * 8000,
        "-----BEGIN " * 1400,
        "eyJ" * 5000,
        "token=['" * 2000,
        "?sig=" * 3000,
        "mysql -u a -p" * 1200,
        "a:bbb@c" * 2000,
        "sk-" + "a-" * 8000,
        "hf_" + "Aaa" * 5000,
        "-u a:" * 3000,
        "secret={'" * 1800,
        "secret=[{" * 1800,
        "key=a(b='" * 1800,
        "secret: |\n  " * 1300,
        'secret=[\\"' + "\\'" * 8000,
        'secret=[\\"' + "\\\\\\" * 5000,
        "secret: |\n " + "\n" * 16_000,
        "secret: |" + " \n " * 8000,
        "secret: |\n" * 1600,
        "curl -ua:" * 1800,
        '[["secret", ' * 1300,
        "token=['" + "\\'" * 16_000,
        'token=["a", ' + "'\\" * 16_000,
        "token=['" + "\\'" * 16_000 + "\\\n",
        "token=['" + "\\'" * 16_000 + "\\",
    ],
)
def test_no_text_makes_the_search_slow(text: str) -> None:
    """What a text costs grows with its length, whatever it is made of: far from a second for the longest."""
    began = time.thread_time()
    cut_secrets(text)
    assert time.thread_time() - began < 1


def test_many_long_texts_in_lists_take_no_time() -> None:
    """Of lists in lists of long texts no more is searched than may stay."""
    text = "token.a.a.a." * 1300 + "="
    with capture() as seen:
        record(event(dict.fromkeys("abcd", 1)))
        began = time.thread_time()
        record(event(dict.fromkeys("abcd", [[text] * 8] * 8)))
        assert time.thread_time() - began < 3
        assert len(seen) == 2


def test_what_is_known_of_texts_is_bounded() -> None:
    """Texts made of data do not pile up, and what is looked at today is known today."""
    redactor = Redactor()
    for number in range(10_000):
        assert redactor.passes(f"text {number}")
    assert len(redactor.texts) <= 4096
    assert "text 9999" in redactor.texts
    assert redactor.passes("x" * 1000)
    assert "x" * 1000 not in redactor.texts


@dataclass
class Login:
    """What a program may pass by mistake."""

    user: str
    password: str


@pytest.mark.parametrize(
    "value",
    [f"Bearer {KEY}", {"password": KEY}, Login("joe", KEY), [{"argv": ["--token", KEY]}]],
    ids=lambda value: type(value).__name__,
)
def test_no_secret_in_a_metric_or_an_event_s_name(value: Any) -> None:
    """A metric's value and an event's name are redacted as metadata are, whatever somebody passes for them."""
    with capture() as seen:
        for _ in range(2):
            put_metric("m", value)
            record(Event(value, EventSource.WORKER))
    assert len(seen) == 4
    assert KEY not in repr([(one.name, one.fields) for one in seen])


def test_no_secret_in_a_rendezvous() -> None:
    """Message and error trace of a rendezvous event lose what they carry; what they say besides stays."""
    with capture() as seen:
        for _ in range(2):
            about = f"cannot reach redis://joe:{KEY}@store"
            construct_and_record_rdzv_event("run", about, NodeState.FAILED)
    assert KEY not in repr([one.fields for one in seen])
    assert [one.event.message for one in seen] == ["cannot reach redis://[redacted]@store"] * 2


def thorough(text: str) -> str:
    """Return what `cut_secrets` would, had it looked at each name and each run of a text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redact, "_names", redact._NAMED.finditer)
        patch.setattr(redact, "_BEGINS", ("",))
        patch.setattr(redact, "_KEY", 0)
        return cut_secrets(text)


PIECES = [
    *(
        "password",
        "token",
        "api_key",
        "authorization",
        "pad_token",
        "conn_str",
        "my_pat",
        "path",
        "x",
        "a.b.c",
        "PASSWORD",
        "task-1",
    ),
    *(
        "--password",
        "-p",
        "-u",
        "user:pw",
        "://u:p@h/",
        "Bearer",
        "cookie",
        "sk-abc123def456ghi789jkl0",
        "AKIAABCDEFGHIJKLMNOP",
    ),
    *(
        "=",
        ": ",
        '="',
        '": "',
        "'",
        " ",
        "\n",
        "\t",
        ".",
        "-",
        "_",
        "[",
        ")",
        ",",
        ";",
        "\\",
        '\\"',
        "ſ",
        "é",
        "K",
        "7",
    ),
    *("a" * 40, "b" * 61, "c" * 70, "hunter2"),
    *("[[", ', ["', '", "value": "', "{'", "}", "Secret(", "|\n  ", "xai-" + "x9" * 20, "curl -uj:"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.integers(1, 3))
@settings(max_examples=500)
def test_what_is_looked_at_less_is_cut_the_same(piece: str, times: int) -> None:
    """A text that is looked at near the words of secrets only is cut as if all of it were."""
    text = piece * times
    assert cut_secrets(text) == thorough(text)


@given(
    st.lists(
        st.sampled_from([*SECRET_NAMES, *PLAIN_NAMES, "_", "-", ".", " ", "7", "K", "\u212a", "\u017f", "é", "ToKeN"]),
        max_size=4,
    ).map("".join)
)
def test_a_name_is_a_secret_in_any_case(name: str) -> None:
    """A name is searched in lower case where that is quicker, and is found as if its case were ignored."""
    for key in (name, name.upper(), name.swapcase()):
        assert redact._is_secrets(key) == any(map(redact._SECRET, redact._forms(key, key)))


@given(st.lists(st.lists(st.sampled_from([*PIECES, *SECRET_VALUES[:20]]), max_size=6).map("".join), max_size=6))
@settings(max_examples=500)
def test_one_look_at_many_texts_lets_none_pass_that_carries_a_secret(texts: list[str]) -> None:
    """Texts that are known from one look at all are texts of which none would be cut alone."""
    redactor = Redactor()
    redactor.learn([], texts)
    assert all(cut_secrets(text) == text for text in redactor.texts)
    assert redactor.texts <= set(texts)


@given(st.lists(st.sampled_from([*SECRET_NAMES, *PLAIN_NAMES, "pat", "my_pat\n", "x", "layer.0.weight"]), max_size=6))
def test_one_look_at_many_names_lets_none_pass_that_is_a_secret_s(names: list[str]) -> None:
    """Names that are known from one look at all are names of which none is a secret's."""
    redactor = Redactor()
    redactor.learn(names, [])
    assert not any(map(Redactor().is_secret, redactor.safe))


def test_one_look_knows_what_is_harmless() -> None:
    """Names and texts without any sign of a secret need no second look; with a pattern of one's own its names do."""
    for redactor, names in ((Redactor(), {"lr", "epoch"}), (Redactor("lr"), set())):
        redactor.learn(["lr", "epoch"], ["adam", "a path: /data/x=1"])
        assert redactor.safe == names
        assert redactor.texts == {"adam", "a path: /data/x=1"}


KEYED: dict[str, Any] = {
    "one": lambda key: {key: 1},
    "text": lambda key: {"a": 1, key: "x"},
    "nested": lambda key: {"v": [{"a": {key: 1}}]},
    "tuple": lambda key: {(1, key): 1},
    "many numbers": lambda key: {**{f"n{number}": number for number in range(40)}, key: 1},
    "all": lambda key: {f"{number} {key}": number for number in range(40)},
    "very many": lambda key: {f"{number}:key {key}": number for number in range(400)},
    "long": lambda key: {f"{key} {'x' * 1_000}": 1, f"{'x' * 1_000} {key}": "x"},
}


@pytest.mark.parametrize("kind", KEYED)
@pytest.mark.parametrize("key", [f"https://me:{KEY}@host", JOINED(("sk", KEY)), f"token={KEY}", f"Bearer {KEY}"])
def test_no_secret_in_a_key(key: str, kind: str) -> None:
    """A key of metadata that carries a secret is recorded without it, wherever it stands and however often."""
    metadata = KEYED[kind](key)
    with capture() as seen:
        for _ in range(3):
            record(Event("e", EventSource.WORKER, metadata=metadata))
        assert not any(KEY in str(one.event) for one in seen)
        assert len(seen[0].event.metadata) >= min(len(metadata), 4)


@given(st.lists(st.lists(st.sampled_from([*PIECES, *SECRET_VALUES]), max_size=4).map("".join), max_size=6))
@example(["lr", f"\nsk-{KEY}"])
@settings(max_examples=300)
def test_a_look_at_many_keys_lets_none_pass_that_carries_a_secret(keys: list[str]) -> None:
    """As one finds that a key carries a secret, the look at all of them does."""
    assert Redactor().carry(keys) or all(cut_secrets(key) == key for key in keys)
