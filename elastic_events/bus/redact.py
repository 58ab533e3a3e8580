"""Secrets never reach a queue: what is redacted by its key, and what is cut out of a text.

One file although it is long: how a secret looks, and the signs by which most texts are known to have none, must agree.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

__all__ = ("NAMES", "REDACTED", "SECRETS", "VALUES", "Redactor", "cut_secrets", "redact_arguments")

REDACTED = "[redacted]"

#: Places of a name and of its value, in a dict that stands for one item: a variable of a container, a header.
NAMES = frozenset({"name", "Name", "key", "Key"})
VALUES = frozenset({"value", "Value"})

# Whose keys open something. Any other key sorts, groups or looks something up.
_KEYRING = (
    "a(?:ccess|ccount|dmin|es|nthropic|pi|pp|pplication|uth|ws|zure(?:_storage)?)|c(?:ohere|omet|onsumer)|d(?:atadog|eploy)|encrypt(?:ion)?|"
    "g(?:cp|emini|ithub|itlab|oogle|pg)|h(?:f|mac|uggingface)|jwt|kaggle|license|master|mistral|neptune|n(?:gc|vidia)|"
    "openai|p(?:gp|riv|rivate)|r(?:oot|sa)|s(?:ecret|entry|ervice|ession|igning|lack|sh|tripe|ubscription)|"
    "together|twilio|wandb"
)

# Who hands out tokens, where the word stands in the plural or in the middle of a name.
_ISSUERS = "access|api|auth|bearer|bot|csrf|hf|oauth|refresh|secret|session|xsrf"

# What a language model's tokens are called: `pad_token` is a piece of text.
_VOCABULARY = (
    "assistant|audio|begin|blank|boi|bos|class|cls|decoder|delimiter|draft|each|end|eod|eoi|eom|eos|eot|extra|first|frame|"
    "generated|image|img|input|lang|language|last|latent|mask|max|memory|middle|min|modality|n|new|newline|next|nospeech|"
    "num|oov|output|pad|padding|patch|per|prefix|prev|previous|prompt|query|register|sep|separator|source|space|special|"
    "speech|src|start|stop|sub|suffix|summary|target|text|tgt|think|thinking|tokenizer|total|unk|unknown|video|vision|visual|"
    "word"
)

# A word -> what a key with it looks like whose value is a secret. One after the other they are searched in a fifth of the time.
_PATTERNS = {
    "pass": r"passw|passphrase|passcode|(?:^|_)(?:admin|bind|db|e?mail|ldap|mysql|pg|proxy|redis|root|s?ftp|smtp|ssh|user)_pass$",
    "secret": r"secrets?(?:_|$)",
    "cred": r"credential|(?:^|_)creds?(?:_|$)",
    "auth": r"authorization|(?:^|_)o?auth2?(?:_(?:code|header|data|string))?$",
    "cookie": r"cookies?(?:_|$)",
    "bearer": r"(?:^|_)bearer(?:_|$)",
    "dsn": r"(?:^|_)dsn(?:_|$)",
    "jwt": r"(?:^|_)jwt(?:_|$)",
    "otp": r"(?:^|_)t?otp(?:_|$)",
    "pwd": r"(?:^|_)pwd(?:_|$)",
    "conn": r"conn(?:ection)?_?str(?:ing)?(?:_|$)",
    "key": rf"^key$|(?:^|_)(?:{_KEYRING})_?keys?(?:_|$)",
    "token": rf"(?:^|_)(?:{_ISSUERS})_?tokens?(?:_|$)"
    rf"|^(?!(?:.*[\W_])?(?:{_VOCABULARY})_token)(?:.*_)?token(?:_(?:value|str|string|header))?(?:_?\d+)?$",
    "pat": r"(?:^|_)(?:ado|azure|devops|gh|github|gitlab|personal)_pat$",
}

#: Keys whose values are secrets. A key is looked at in its words, in lower case and joined by `_`: `openaiApiKey` is
#: openai_api_key, and "token" is looked for as a word, not in "tokenizer".
SECRETS = "|".join(_PATTERNS.values())

#: One of these, or `_PAT`, is in each key that `SECRETS` finds: to look for them takes no time.
_SECRET_WORDS = tuple(word for word in _PATTERNS if word != "pat")
_PAT = re.compile(r"pat(?![a-z\d])")
_SECRET_WORD = re.compile("|".join((*_SECRET_WORDS, _PAT.pattern))).search

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_NOT_A_WORD = re.compile(r"[\W_]+")

# What stands between the name of that header and its secret.
_BEFORE = r"""["']?\s{0,3}[:=]\s{0,3}["']?"""
_SCHEME = r"(?i:basic|bearer|digest|negotiate|token)\s{1,3}"

# What shows by its shape: a text that each such secret has in it, which is found in no time; the secret; what stays of it.
# Each pattern is bounded: a text of any shape is cut in time that grows with its length.
_SHAPES = (
    (
        "PRIVATE KEY",
        re.compile(
            r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----|\Z)"
        ),
        REDACTED,
    ),
    ("earer", re.compile(r"([Bb]earer\s{1,3})[A-Za-z0-9._~+/=-]{6,}"), rf"\1{REDACTED}"),
    ("EARER", re.compile(r"(BEARER\s{1,3})[A-Za-z0-9._~+/=-]{6,}"), rf"\1{REDACTED}"),
    (
        "wandb login",
        re.compile(r"(wandb login\s{1,3}(?:--\w[\w-]{0,20}(?:[=\s]https?://\S{1,128})?\s{1,3}){0,3})[\w-]{32,}"),
        rf"\1{REDACTED}",
    ),
    (  # a line of ~/.netrc
        "password",
        re.compile(r"(\bmachine\s{1,9}\S{1,128}\s{1,9}login\s{1,9}\S{1,128}\s{1,9}password\s{1,9})\S+"),
        rf"\1{REDACTED}",
    ),
)

# As `_SHAPES`, of texts that hold a mark such as `=` or `:`, which the most do not.
_MARKED_SHAPES = (
    (  # a URL's login; a port is none
        "://",
        re.compile(
            r"""(?:(?<!ssh)(?<!sftp)://[^\s:/@"'<>]{1,256}|://[^\s:/@"'<>]{0,128}:(?!\d{1,5}[/?\#])[^\s"'<>]{0,256})@"""
        ),
        f"://{REDACTED}@",
    ),
    (  # the same without a scheme, as a database's address may be: name:secret@host/path. `worker:0@host` is none
        "@",
        re.compile(
            r"""(?<![^\s"'=])(?!(?:mailto|sips?|acct|xmpp):)([A-Za-z][\w.%+-]{0,64}:)(?!\d+@)[^\s@/:"'<>]{3,128}"""
            r"""(?=@[A-Za-z\d][\w.-]{0,128}(?::\d{1,5})?/[A-Za-z])"""
        ),
        rf"\1{REDACTED}",
    ),
    # Who knows a webhook's address may write to it.
    (
        "hook",
        re.compile(r"""(://(?:hooks\.slack\.com|[\w.-]{1,64}/api/webhooks|[\w.-]{1,64}/webhookb2)/)[^\s"'<>]+"""),
        rf"\1{REDACTED}",
    ),
    ("ookie:", re.compile(r"""([Cc]ookie:\s{0,3})[^\s=;,"']{1,128}=[^\n"']*"""), rf"\1{REDACTED}"),
    (
        "uthorization",
        re.compile(rf"""(uthorization{_BEFORE}(?:[A-Z][a-z]{{1,9}}\s{{1,3}}|{_SCHEME})?)[^\s"',;]+"""),
        rf"\1{REDACTED}",
    ),
    ("UTHORIZATION", re.compile(rf"""(UTHORIZATION{_BEFORE}(?:{_SCHEME})?)[^\s"',;]+"""), rf"\1{REDACTED}"),
    # A link that is signed opens what it names.
    ("ignature=", re.compile(r"""([?&](?:X-[A-Z][a-z]{1,9}-)?Signature=)[^\s"'&#]+"""), rf"\1{REDACTED}"),
    ("sig=", re.compile(r"""([?&]sig=)[^\s"'&#]+"""), rf"\1{REDACTED}"),
)

# Keys that say themselves what they are, each of a run of 15 characters or more.
_KEYS = re.compile(
    r"""
          sk-(?!learn)(?=[\w-]{0,64}[A-Za-z0-9]{16})(?=[\w-]{0,80}\d)[\w-]{20,}  # words between dashes are a name
        | hf_(?![a-z]*(?:[A-Z]+[a-z]{2,}\d{0,2})*[A-Z]{0,4}(?![A-Za-z0-9]))[A-Za-z0-9]{30,}  # nor is CamelCase a token
        | (?:sk|rk)_(?:live|test)_\w{10,} | gh[oprsu]_[A-Za-z0-9]{20,}
        | github_pat_\w{20,} | glpat-[\w-]{16,} | xox[abeprs]-[\w-]{10,} | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])
        | AIza[\w-]{30,} | ya29\.[\w-]{20,} | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{40,} | nvapi-[\w-]{20,} | gsk_\w{20,}
        | xai-[A-Za-z0-9]{40,} | pplx-[A-Za-z0-9]{32,} | r8_[A-Za-z0-9]{32,} | lsv2_(?:pt|sk)_\w{20,} | hvs\.[\w-]{20,}
        | dckr_pat_[\w-]{20,} | GOCSPX-[\w-]{20,} | SG\.[\w-]{16,}\.[\w-]{16,}
        | dapi[0-9a-f]{32} | S[AOU][A-Z2-7]{56}(?![A-Za-z0-9]) | eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?
    """,
    re.VERBOSE,
)
_KEY = 15
_RUN = re.compile(rf"(?<![\w.-])[\w.-]{{{_KEY}}}")

# What they begin with. To look for a few letters takes a small part of the time of looking at each run.
# fmt: off
_BEGINS = (
    "sk-", "sk_", "rk_", "hf_", "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "glpat-", "xox", "AKIA", "ASIA", "AIza",
    "ya29.", "npm_", "pypi-", "nvapi-", "gsk_", "dapi", "SA", "SO", "SU", "eyJ", "xai-", "pplx-", "r8_", "lsv2_", "hvs.",
    "dckr_pat_", "GOCSPX-", "SG.",
)
# fmt: on
_FIRST_TWO = frozenset(begin[:2] for begin in _BEGINS)

# One of these is in each text that `cut_secrets` changes, unless one of `_SECRET_WORDS` or of `_BEGINS` is.
_SIGNS = (
    *("@", "hook", "uthorization", "UTHORIZATION", "ignature=", "sig=", "-u", "-U", "-p", "redis-cli", "wandb login"),
)

# `--name value`, `name=value`, `name: value`, `"name": "value"`, `[["name", "value"]]`, `{"name": "name", "value": "value"}`:
# the name and what stands between.
_NAMED = re.compile(
    r"""
        (?<![\w-]) (?:(?P<pair>(?<=[\[(][\[(]["'])|(?<=,[\[(]["'])|(?<=,\s[\[(]["']))|)
        (?P<dashes>--?)? (?P<name>[A-Za-z_][\w.-]{0,60})
        (?P<mark>
              \\?["']?\s{0,8}[=:]\s{0,8}
            | \\?["'],\s{0,3}\\?["'][vV]alue\\?["']:\s{0,3}
            | (?(pair)["'],\s{0,3}|(?!))
            | (?(dashes)\s{1,3}(?!-)|(?!))
        )
    """,
    re.VERBOSE,
)
_VALUE = re.compile(
    r"""
          (?:[bBrRuU]{1,2}(?=["']))?(?P<quote>\\?["'])(?:(?!(?P=quote))(?:\\.|.))+  # bytes and escapes, too
        | (?P<open>(?:[A-Za-z_][\w.]{0,60}\((?:\w{1,60}=)?|[\[({])(?=\s{0,8}[bBrRuU]{0,2}\\?["']))  # a list, a dict, a call
        | [|>][-+\d]{0,2}(?:\s{0,64}\n[ \t]+[^\n]*)+  # a block of YAML, with lines that are empty
        | [^\s"',;&]+
    """,
    re.VERBOSE,
)
_BRACKET = r"[\[({\])}]"
# A text that is not closed takes all the rest: to try from each quote in it anew would take a second.
_BRACKET_OR_TEXT = re.compile(rf"""{_BRACKET}|(["'])(?:(?!\1)[^\\]|\\[\s\S])*(?:\1|\\?\Z)""")
_BRACKET_OR_ESCAPED = re.compile(rf"""{_BRACKET}|(\\["'])(?:\\\\[\s\S]{{2}}|(?!\1)[\s\S])*(?:\1|\Z)""")  # JSON in JSON

#: Characters of a name with its dashes and of what stands behind it, at most.
_NAME = 96

_FLAG = re.compile(r"--?[A-Za-z][\w-]{0,60}")

# `-u name:secret` is a login, as curl has it; `-u 1000:1000` is none.
_USER_FLAGS = frozenset({"-u", "-U", "--user", "--proxy-user"})
_LOGIN = re.compile(r"""(?!\d+:\d+(?!\S))([^\s:/@"'=]{1,64}:)(?!//)[^\s"']+""")
_USER = re.compile(rf"""((?<!\S)(?:-[uU]|--(?:proxy-)?user)[\s=]["']?){_LOGIN.pattern}""")
_JOINED_USER = re.compile(rf"""(curl[^\n;|]{{0,256}}?\s-[uU]){_LOGIN.pattern}""")

# `-p secret` is a password beside a user's name; alone it is a port or a path. `python -u x.py` names nobody.
_CLIENTS = ("mysql", "mariadb", "sshpass")
_SLURM = re.compile(r"\s*s(?:acct|cancel|info|queue)\s[^;|&\n]*").fullmatch  # whose -p is a partition
_USER_NAME = re.compile(
    r"(?<!\S)(?:-u|--user(?:name)?)[\s=](?![\s-]|\S+\.py(?!\S)|(?:\S*/)?(?:python|bash|sh)[\d.]*(?!\S))"
).search
_OTHER_P = r"(?<!srun\s)(?<!sbatch\s)(?<!salloc\s)(?<!mkdir\s)"  # whose -p is a partition, or makes parents
_SHORT_PASSWORD = re.compile(rf"""({_OTHER_P}(?<!\S)-p[\s=]["']?)(?!-|[\d.:]+(?!\S))[^\s"']+""")
_REDIS_PASSWORD = re.compile(r"""(redis-cli[^\n;|]{0,256}?\s-(?:a|-pass)\s{1,3}["']?)[^\s"']+""")
_JOINED_PASSWORD = re.compile(rf"""((?:{"|".join(_CLIENTS)})[^\n;|]{{0,256}}?\s-p)(?=[^\s=])[^\s"']+""")

# Alone in front of a colon they are words of a sentence: "unexpected token: x".
_SENTENCE = frozenset({"auth", "bearer", "cookie", "cookies", "key", "otp", "token"})

# Behind "key" alone it is what is sorted by: "key=loss".
_WORD = re.compile(r"""["']?[a-z_]{1,16}["')\]]*""").fullmatch

# With one of these, or with `=` or `:`, a name may stand before a value: with the second in a list of pairs.
_DASH = re.compile(r"-(?<![\w-]-)")
_QUOTED = re.compile(r"""[\[(]["']""")

_SEEN = 4096
_LONGEST = 128
_SHORT = 8
_FRAME = 16_384  # a longer text fits into no frame: it takes the long way in any case


class Redactor:
    """Decides by key, and by what a text carries. Any thread may use it.

    `safe` holds the keys, and `texts` the texts, that were looked at and passed: on the hot path they need no second look.

    Args:
        pattern: regular expression, in any case, on keys as they are written and in their words (see `SECRETS`); None
            redacts nothing, texts included.
    """

    def __init__(self, pattern: str | None = SECRETS) -> None:
        self.safe: set[str] = set() if pattern else _Everything()
        self.texts: set[str] = set()
        self.redacts: bool = bool(pattern)
        self._search = re.compile(pattern or "", re.IGNORECASE).search
        self._word = _SECRET_WORD if pattern is SECRETS else None

    def is_secret(self, key: str, quick: bool | None = None) -> bool:
        """Whether what stands under `key` must not be recorded; `quick` is what `is_quick` said of it, if it was asked."""
        if not self.redacts or key in self.safe:
            return False
        if self._word is None:
            if any(map(self._search, _forms(key, key))):
                return True
        elif not (self.is_quick(key) if quick is None else quick) and _is_secrets(key):
            return True
        if len(key) <= _LONGEST and cut_secrets(key) == key:
            _add(self.safe, [key])
        return False

    def is_quick(self, key: str) -> bool:
        """Whether no long search is needed to know of `key`."""
        return self._word is None or self._word(key.lower()) is None

    def passes(self, text: Any) -> bool:
        """Whether `text` is one, and carries no secret; one that was looked at is known from then on."""
        if not self.redacts:
            return True
        if type(text) is not str or len(text) > _FRAME or (len(text) >= _SHORT and cut_secrets(text) != text):
            return False
        if len(text) <= _LONGEST:
            _add(self.texts, [text])
        return True

    def carry(self, names: list[str]) -> bool:
        """Whether one of many names may carry a secret itself. In little time where they are words, or known."""
        if self.safe.issuperset(names):
            return False
        joined = "\n".join(names)
        words = joined.replace("\n", "_").replace(".", "_").replace("-", "_")
        keys = [line for line in joined.split("\n") if line[:2] in _FIRST_TWO and line.startswith(_BEGINS)]
        if f"_{words}".isidentifier() and not keys:
            return False
        if len(joined) > _FRAME // 4 and ("=" in joined or ":" in joined) and _has_word(joined.lower()):
            return True  # to look at each would take a millisecond
        return cut_secrets(joined) != joined

    def learn(self, names: list[str], texts: list[str]) -> None:
        """Look at some short names and texts together: where none shows a sign of a secret, they are known from then on.

        To look at each takes five times as long.
        """
        joined = "\n".join(names)
        if names and self._word is not None and not _has_word(joined.lower()) and cut_secrets(joined) == joined:
            _add(self.safe, names)
        joined = "\n".join(texts)
        if texts and joined.isascii() and not (_has_sign(joined) or _has_word(joined.lower())):
            _add(self.texts, texts)


class _Everything(set[str]):
    """Where nothing is redacted."""

    def issuperset(self, _metadata: object) -> bool:
        return True


def _add(known: set[str], texts: list[str]) -> None:
    """Add texts to those that are known. If they are many, made of data, begin anew: those of today find room."""
    if len(known) >= _SEEN:
        known.clear()
    known.update(texts)


def _has_word(lower: str) -> bool:
    """Whether one of the names in a text in lower case may be a secret's."""
    return _holds(lower, _SECRET_WORDS) or _PAT.search(lower) is not None


def _has_sign(joined: str) -> bool:
    """Whether something in a text may be a secret, whatever stands before it."""
    return _holds(joined, _SIGNS) or _holds(joined, _BEGINS)


def _holds(text: str, parts: tuple[str, ...]) -> bool:
    """Whether one of `parts` is in a text. A loop takes a third of the time of `any`."""
    for part in parts:  # noqa: SIM110
        if part in text:
            return True
    return False


def cut_secrets(text: str) -> str:
    """Return `text` without the secrets that show by their shape or by the name in front of them.

    Bearer tokens, logins in URLs, private keys, keys with a well-known beginning; `--password x`, `token=x`, `"secret": "x"`.
    """
    marked = (
        "=" in text or ":" in text or ("-" in text and _DASH.search(text)) or ("," in text and _QUOTED.search(text))
    )
    for needle, secret, kept in _SHAPES + _MARKED_SHAPES if marked else _SHAPES:
        if needle in text and (needle != "://" or "@" in text):
            text = secret.sub(kept, text)
    runs = " ".join([one for one in text.split() if len(one) >= _KEY])
    if runs and _holds(runs, _BEGINS):
        for run in reversed(list(_RUN.finditer(text))):
            key = _KEYS.match(text, run.start())
            if key:
                text = text[: key.start()] + REDACTED + text[key.end() :]
    return _cut_named(_cut_command(text)) if marked else text


def redact_arguments(items: list[Any]) -> None:
    """Redact, in place, what follows a flag such as `--password` in a list of arguments."""
    for index, flag in enumerate(items):
        if type(flag) is not str or not flag.startswith("-"):
            continue
        value = items[index + 1] if index + 1 < len(items) else None
        if flag.startswith("-p") and _JOINED_PASSWORD.search(_line(items[: index + 1])):
            items[index] = f"-p{REDACTED}"
        elif flag.startswith(("-u", "-U")) and _JOINED_USER.search(_line(items[: index + 1])):
            items[index] = flag[:2] + _LOGIN.sub(rf"\1{REDACTED}", flag[2:])
        elif type(value) is str and not value.startswith("-") and _FLAG.fullmatch(flag):
            if flag in _USER_FLAGS:
                items[index + 1] = _LOGIN.sub(rf"\1{REDACTED}", value)
            elif _is_secret_name(flag) or (flag == "-p" and _is_password(value, index, items)):
                items[index + 1] = REDACTED


def _is_password(value: str, index: int, items: list[Any]) -> bool:
    """Whether `-p value` is one, at this place of these arguments."""
    before = _line(items[max(index - 1, 0) : index])
    return bool(_SHORT_PASSWORD.search(f"{before} -p {value}") and _names_a_user(_line(items)))


def _has_client(text: str) -> bool:
    return any(client in text for client in _CLIENTS)


def _names_a_user(text: str) -> bool:
    return _has_client(text) or ("-u" in text and bool(_USER_NAME(text)) and not _SLURM(text))


def _line(items: list[Any]) -> str:
    return " ".join([item for item in items if type(item) is str])


def _cut_command(text: str) -> str:
    """Cut what the flags of a command line say of who comes: `-u name:secret`, `-p secret`."""
    if "redis-cli" in text:
        text = _REDIS_PASSWORD.sub(rf"\1{REDACTED}", text)
    if "-u" in text or "-U" in text:
        text = _USER.sub(rf"\1\2{REDACTED}", text)
        if "curl" in text:
            text = _JOINED_USER.sub(rf"\1\2{REDACTED}", text)
    if "-p" in text:
        if _has_client(text):
            text = _JOINED_PASSWORD.sub(rf"\1{REDACTED}", text)
        if _names_a_user(text):
            text = _SHORT_PASSWORD.sub(rf"\1{REDACTED}", text)
    return text


def _cut_named(text: str) -> str:
    parts: list[str] = []
    done = 0
    for match in _names(text):
        alone = match["mark"].strip() == ":" and match["name"].lower() in _SENTENCE
        if match.start() < done or alone or not _is_secret_name(match["name"]):
            continue
        value = _VALUE.match(text, match.end())
        sorts = value and match["name"] == "key" and not match["dashes"] and _WORD(value[0])
        if value and not sorts:
            parts += text[done : match.end()], value["quote"] or "", REDACTED
            done = _closed(text, value.start()) if value["open"] else value.end()
    return "".join(parts) + text[done:]


def _closed(text: str, start: int) -> int:
    """Return where the first bracket from `start` on is closed; the end of the text where it is not."""
    depth = 0
    one = _BRACKET_OR_TEXT.search(text, start)
    escaped = one is not None and text[one.end() :].lstrip()[:1] == "\\"
    for one in (_BRACKET_OR_ESCAPED if escaped else _BRACKET_OR_TEXT).finditer(text, start):
        depth += (one[0] in "[({") - (one[0] in "])}")
        if depth == 0 and one[0] in "])}":
            return one.end()
    return len(text)


def _names(text: str) -> Iterator[re.Match[str]]:
    """Return where names stand before values, those at least that may be a secret's: they hold one of a few words."""
    if not text.isascii():  # letters that are the same in lower case may have other lengths
        return _NAMED.finditer(text)
    lower = text.lower()
    places = [one.start() for one in _PAT.finditer(lower)]
    for word in _SECRET_WORDS:
        place = lower.find(word)
        while place >= 0:
            places.append(place)
            place = lower.find(word, place + 1)
    return _near(text, sorted(places))


def _near(text: str, places: list[int]) -> Iterator[re.Match[str]]:
    """Return the names around `places`, ascending."""
    end = 0  # all before it was looked at
    for first, place in enumerate(places):
        if place < end:
            continue
        last = place
        for other in islice(places, first, None):  # those that are near each other at once
            if other - last > _NAME:
                break
            last = other
        # From a space on, which no name holds.
        begin = max(place - _NAME, end)
        begin = max(text.rfind(" ", end, begin), text.rfind("\n", end, begin), end)
        end = last + 1
        for match in _NAMED.finditer(text, begin, last + 2 * _NAME):
            if match.start() >= end:
                break
            yield match


def _forms(key: str, written: str) -> Iterable[str]:
    """Return the key as it is `written`, and in its words."""
    return dict.fromkeys((written, _NOT_A_WORD.sub("_", key.lower()), "_".join(_WORDS.findall(key)).lower()))


_SECRET = re.compile(SECRETS, re.IGNORECASE).search
_SEARCHES = [(word, re.compile(pattern).search) for word, pattern in _PATTERNS.items()]


def _is_secrets(key: str) -> bool:
    """Whether `SECRETS` finds the key. What is ASCII is searched in lower case: to ignore case takes twice as long."""
    if not key.isascii():
        return any(map(_SECRET, _forms(key, key)))
    lower = key.lower()
    forms = _forms(key, lower)
    return any(any(map(search, forms)) for word, search in _SEARCHES if word in lower)


@lru_cache(1024)
def _is_secret_name(name: str) -> bool:
    return _is_secrets(name)
