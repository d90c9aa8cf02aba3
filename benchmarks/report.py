"Format the results of the rows as RESULTS.md"
METHOD = (
    "Each row runs in a process of its own. Project and peer take turns in it, round by round, after a round that "
    "doesn't count; a figure is the median of its rounds, with the smallest and the\nlargest in brackets. "
    'A ratio says how many times as long the peer takes. "Limit" is work that nobody can leave out, measured in the '
    "same rounds; what stands behind it is how many times as long\nthe project takes. "
    "Comparisons on one core pin torch, BLAS and OpenMP to one thread. "
    "No clip is counted whose file is still on a slow disk: the first round has read them all.\n"
)


def table(heads: list[str], rows: list[list]) -> list[str]:
    return ["| " + " | ".join(map(str, line)) + " |" for line in (heads, ["---"] * len(heads), *rows)] + [""]


def time_of(t: dict) -> str:
    return f"{t['median_ms']:.3g} ms ({t['low_ms']:.3g} ... {t['high_ms']:.3g}, {t['runs']} rounds)"


def verdict(part: dict, name: str) -> str:
    if name not in part["aims"]: return ""
    return f"{part['aims'][name]:g}x: {'reached' if part['ratios'][name] >= part['aims'][name] else 'missed'}"


def timed(part: dict) -> list[str]:
    "Format a row that `common.row` returned"
    lines = [[part["ours"], time_of(part["times"][part["ours"]]), "", ""]]
    lines += [
        [name, time_of(part["times"][name]), f"{ratio:g}x", verdict(part, name)]
        for name, ratio in part["ratios"].items()
    ]
    for name, times in part["limits"].items():
        aim = part.get("aim_limit")
        lines.append(
            [
                f"limit: {name}",
                time_of(part["times"][name]),
                f"project takes {times:g}x",
                f"{aim:g}x: {'reached' if times <= aim else 'missed'}" if aim else "",
            ]
        )
    said = table(["", "median", "ratio", "aim"], lines)
    if "clips_per_s" in part:
        said += ["Clips a second: " + ", ".join(f"{name} {n}" for name, n in part["clips_per_s"].items()) + ".", ""]
    if "percentiles" in part:
        said += table(
            ["", "p50", "p95"],
            [[name, f"{p['p50_ms']:g} ms", f"{p['p95_ms']:g} ms"] for name, p in part["percentiles"].items()],
        )
    if "largest_difference_db" in part:
        said += [
            "Equal values: the largest difference is "
            + ", ".join(f"{db:g} dB from {name}" for name, db in part["largest_difference_db"].items())
            + ".",
            "",
        ]
    if "int8" in part: said += [part["int8"] + ".", ""]
    for e in part.get("epochs", []):
        said += [
            (
                f"A real epoch of {e['arch']} from {e['source']}: {e['epoch_s']:g} s, "
                f"of which the network waits {e['waited_percent']:g} % for its batches (aim: below 5 %)."
            ),
            "",
        ]
    if "recordings" in part:
        said += table(
            ["minutes", "seconds", "times real time", "memory before", "peak memory"],
            [
                [r["minutes"], r["seconds"], r["times_real_time"], f"{r['idle_mb']} MB", f"{r['peak_mb']} MB"]
                for r in part["recordings"]
            ],
        )
        said += [f"At that rate a day takes {part['minutes_for_a_day']:g} minutes.", ""]
    return said


def curves(part: dict) -> list[str]:
    lines = [
        [c["arm"], c["skipped"]]
        if "skipped" in c
        else [c["arm"], " → ".join(f"{s:g} s {accuracy:.3f}" for s, accuracy in c["points"])]
        for c in part["curves"]
    ]
    return table(["", "seconds of preparing and training, and accuracy then"], lines)


def growth(part: dict) -> list[str]:
    rows = [
        [
            g["step"],
            " / ".join(map(str, g["clips"])),
            " / ".join(f"{s:.3g}" for s in g["seconds"]),
            " / ".join(map(str, g["peak_mb"])),
            g["exponent"],
            g["ms_a_clip"],
        ]
        for g in part["growth"]
    ]
    return table(
        ["step", "clips", "seconds", "peak MB of a process", "exponent, from the last two", "ms for one more clip"],
        rows,
    )


def workers(part: dict) -> list[str]:
    rows = [
        [
            w["engine"],
            w.get("workers", ""),
            w.get("files_per_s", w.get("skipped")),
            w.get("first_rows_s", ""),
            w.get("seconds", ""),
        ]
        for w in part["workers"]
    ]
    m = part["million"]
    return table(["engine", "workers", "files a second", "seconds to the first rows", "seconds in all"], rows) + [
        (
            f"A million such clips ({m['gigabytes_read']} GB): {m['hours_here']:g} hours on this machine; "
            f"elsewhere {m['formula']}."
        ),
        "",
    ]


def start(part: dict) -> list[str]:
    cold, installs = part["cold_start_to_tags_s"], part["install"]
    said = [
        (
            f"Fresh process to first tags: {cold['median']:.2f} s (worst {cold['worst']:.2f} s; aim: below 2 s). "
            f"`import audiotag`: {part['import_audiotag_s']:.3f} s (aim: below 0.3 s); "
            f"with `Tagger`: {part['import_tagger_s']:.3f} s."
        ),
        "By `python -X importtime`: " + ", ".join(part["importtime"]) + ".",
        "",
    ]
    if "skipped" in installs: return [*said, f"Installation: {installs['skipped']}.", ""]
    return said + table(
        ["pip install (benchmarks/install.py, run once)", "seconds", "megabytes"],
        [[name, i["seconds"], i["megabytes"]] for name, i in installs.items()],
    )


def page(part: dict) -> list[str]:
    p = part["page"]
    return [
        (
            f"{p['calls']} calls, {p['errors']} errors, {p['calls_per_s']:g} tags a second; "
            f"p50 {p['p50_s']:g} s, p95 {p['p95_s']:g} s (aim: below 1 s), worst {p['max_s']:g} s; "
            f"memory {p['memory_idle_mb']} MB before, {p['memory_peak_mb']} MB at most."
        ),
        "",
    ]


def gpu(part: dict) -> list[str]:
    rows = [
        [name, e.get("second_s", e.get("skipped")), e.get("clips_per_s", ""), e.get("share_of_peak", "")]
        for name, e in part["epochs"].items()
    ]
    return [
        f"Converting all clips: {part['convert_s']} s.",
        "",
        *table(["an epoch", "seconds", "clips a second", "share of the peak"], rows),
    ]


KINDS = {
    "times": timed,
    "curves": curves,
    "growth": growth,
    "workers": workers,
    "import_audiotag_s": start,
    "page": page,
    "convert_s": gpu,
}


def section(part: dict) -> list[str]:
    head = [f"## {part['what'][0].upper()}{part['what'][1:]}", ""]
    for key in ("skipped", "failed"):
        if key in part: return [*head, f"{key.capitalize()}: {part[key]}.", ""]
    made = next(make for key, make in KINDS.items() if key in part)
    return [*head, f"{part['on'][0].upper()}{part['on'][1:]}.", "", *made(part)]


def report(result: dict) -> str:
    "Format all results"
    m = result["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in m["packages"].items())
    head = [
        "# Benchmarks",
        "",
        (
            f"Written by `{result['command']}`, which took {result['minutes']} minutes on: {m['processor']}, "
            f"{m['cores']} cores, {m['memory']}, {m['system']}, Python {m['python']}; load before: {m['load_before']}."
        ),
        "",
        f"Versions: {versions}.",
        "",
        METHOD,
    ]
    return (
        "\n".join(head + [line for r in result["rows"] for part in r["parts"] for line in section(part)]).rstrip()
        + "\n"
    )
