"""Goodput as one page that needs nothing else: a bar, and the numbers."""

from html import escape

from elastic_events.bus.text import counted
from elastic_events.reading.buckets import BUCKETS, Goodput, headline
from elastic_events.reading.words import seconds

__all__ = ("goodput_html",)

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1f2933; --soft: #5c6873; --line: #d9dfe6;
  --productive: #3fa273; --lost: #f0b7a4; --checkpoint: #1f5fbf; --startup: #9cc9e8; --rendezvous: #b197d6;
  --detection: #e2b53e; --requeue: #d98fb0; --unknown: #e6e0d0; --idle: #c9d1d9; }
@media (prefers-color-scheme: dark) { :root { --ground: #12171d; --ink: #e6ebf0; --soft: #9aa7b4; --line: #2d3742;
  --productive: #2f9468; --lost: #a8614b; --checkpoint: #5b9bff; --startup: #5a9bc4; --rendezvous: #8b70b8;
  --detection: #b98a1c; --requeue: #96506f; --unknown: #6b6454; --idle: #4a5561; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 16px; }
h1 { font-size: 20px; margin: 0 0 2px; overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 15px; margin: 24px 0 6px; }
p { margin: 4px 0; color: var(--soft); }
svg { display: block; width: 100%; border-radius: 6px; margin: 14px 0; }
.attempt svg { margin: 0; min-width: 120px; border-radius: 3px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 5px 14px 5px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
td:first-child { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } .number { text-align: right; white-space: nowrap; }
i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
.what { color: var(--soft); }
@media (max-width: 600px) { .what { display: none; } main { padding: 10px; } }
"""


def goodput_html(answer: Goodput) -> str:
    """Return the page. All that was recorded is escaped."""
    title = f"Run {answer.run_id}: {headline(answer)}"
    shares = {bucket.name: bucket.share for bucket in answer.buckets}
    told = [f"{answer.steps_cut:,} cut off", counted(answer.failures, "failure")]
    if answer.steps is not None:
        told = [counted(answer.steps, "step"), f"{answer.steps_redone:,} done again", *told]
    rows = "".join(
        f'<tr><td><i style="background:var(--{bucket.name})"></i>{bucket.name}</td><td class="number">{seconds(bucket.seconds)}'
        f'</td><td class="number">{bucket.share:.1%}</td><td class="what">{escape(BUCKETS[bucket.name])}</td></tr>'
        for bucket in answer.buckets
    )
    attempts = "".join(
        f'<tr><td class="number">{one.attempt}</td><td class="number">+{seconds(one.start_s)}</td><td class="number">'
        f'{seconds(one.wall_s)}</td><td class="attempt">{_bar(_shares(one.buckets, one.wall_s), 14)}</td>'
        f"<td>{escape(one.outcome)}</td></tr>"
        for one in answer.attempts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>{', '.join(told)}.</p>{_bar(shares, 44)}"
        '<table aria-label="Buckets"><thead><tr><th scope="col">bucket</th><th scope="col" class="number">time</th>'
        '<th scope="col" class="number">share</th><th scope="col" class="what">what it holds</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        '<h2 id="attempts">Attempts</h2><div class="wide"><table aria-labelledby="attempts"><thead><tr>'
        '<th scope="col" class="number">#</th><th scope="col" class="number">began</th><th scope="col" class="number">took</th>'
        f'<th scope="col">where it went</th><th scope="col">ended</th></tr></thead><tbody>{attempts}</tbody></table></div>'
        "</main></body></html>\n"
    )


def _shares(buckets: dict[str, float], wall_s: float) -> dict[str, float]:
    return {name: value / wall_s if wall_s else 0.0 for name, value in buckets.items()}


def _bar(shares: dict[str, float], height: int) -> str:
    """Return one bar of all shares, in a row."""
    at, parts = 0.0, []
    for name, share in shares.items():
        width = share * 1000
        if width:
            place = f'x="{at:.2f}" width="{width:.2f}" height="{height}"'
            parts.append(f'<rect {place} style="fill:var(--{name})"><title>{name}, {share:.1%}</title></rect>')
        at += width
    label = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
    return (
        f'<svg viewBox="0 0 1000 {height}" height="{height}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )
