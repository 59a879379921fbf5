"""The style of every page: a neutral ground, one accent, system fonts; light and dark; from 320 pixels upwards.

Contrast is AA in both schemes; tests work it out from the colours below.
"""

LIGHT = {
    "ink": "#16181d",
    "soft": "#5a616d",
    "paper": "#f6f7f9",
    "card": "#ffffff",
    "line": "#e3e5ea",
    "edge": "#868d99",
    "accent": "#5b3fd1",
    "on-accent": "#ffffff",
    "link": "#5b3fd1",
    "good": "#17754a",
    "warn": "#8f5500",
    "bad": "#bd2130",
}
DARK = {
    "ink": "#eceef2",
    "soft": "#a2a9b6",
    "paper": "#0e1014",
    "card": "#17191f",
    "line": "#2a2e37",
    "edge": "#727a88",
    "accent": "#a996ff",
    "on-accent": "#14161b",
    "link": "#b5a5ff",
    "good": "#4cc38a",
    "warn": "#efab3f",
    "bad": "#ff7f89",
}
HUES = (255, 225, 200, 172, 140, 42, 20, 350, 325, 285)  # of monograms


def _variables(colors: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {color}" for name, color in colors.items())


STYLE = (
    f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)};
  --shadow: 0 1px 2px rgb(16 20 30 / .05), 0 8px 24px -12px rgb(16 20 30 / .12); --calm: var(--link) }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)}; --shadow: none }} }}
"""
    + """
*, ::before, ::after { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100% }
body { margin: 0; min-height: 100vh; min-height: 100dvh; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 Inter, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere }
body.single { display: grid; grid-template-columns: minmax(0, 1fr); align-content: center; justify-items: center;
  padding: 2rem 1rem }
h1 { margin: 0; font-size: 1.5rem; line-height: 1.25; font-weight: 650; letter-spacing: -.015em; text-wrap: balance }
.status + h1::first-letter { text-transform: uppercase }
h2 { margin: 0; font-size: 1rem; line-height: 1.4; font-weight: 600 }
p { margin: .6rem 0; text-wrap: pretty }
a { color: var(--link); text-underline-offset: .18em; text-decoration-thickness: .06em }
code { font: .875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
.icon { width: 1.25em; height: 1.25em; flex: none; fill: none; stroke: currentColor; stroke-width: 1.75;
  stroke-linecap: round; stroke-linejoin: round }
.logo { display: block; max-height: 2.5rem; max-width: 14rem }
.single > header { width: 100%; max-width: 28rem; margin-bottom: 1.25rem }
.single > header:has(+ .roomy) { max-width: 36rem }
.soft { color: var(--soft) }
.small { font-size: .875rem }

.card { width: 100%; background: var(--card); border: 1px solid var(--line); border-radius: .875rem;
  box-shadow: var(--shadow) }
.single > .card { max-width: 28rem; padding: 2.25rem }
.single > .card.roomy { max-width: 36rem }
.single h1 + p { margin-top: .75rem }
.badge { display: grid; place-items: center; width: 2.75rem; height: 2.75rem; margin-bottom: 1.25rem;
  border-radius: .75rem; color: var(--tone); background: var(--paper);
  background: color-mix(in srgb, var(--tone) 12%, var(--card)) }
.calm { --tone: var(--calm) } .good { --tone: var(--good) } .warn { --tone: var(--warn) } .bad { --tone: var(--bad) }
.status { margin: 0 0 .25rem; color: var(--link); font-size: .875rem; font-weight: 600;
  font-variant-numeric: tabular-nums }

.actions { display: flex; flex-wrap: wrap; gap: .625rem; margin-top: 1.5rem }
.actions form { display: contents }
.action, .quiet { display: inline-flex; align-items: center; justify-content: center; gap: .45rem;
  min-height: 2.5rem; padding: .5rem 1rem; border: 1px solid transparent; border-radius: .5rem;
  font-family: inherit; font-size: .9375rem; font-weight: 600; line-height: 1.2; text-align: center;
  text-decoration: none; cursor: pointer;
  transition: filter .12s, background-color .12s, border-color .12s }
.action { color: var(--on-accent); background: var(--accent) }
.action:hover { filter: brightness(1.08) }
.quiet { color: var(--ink); background: var(--card); border-color: var(--line) }
.quiet:hover { border-color: var(--edge) }
.wide-action { width: 100% }

form.stack { display: grid; gap: 1.1rem; margin-top: 1.5rem }
label { display: block; font-size: .875rem; font-weight: 550 }
.field { width: 100%; min-height: 2.5rem; padding: .45rem .75rem; border: 1px solid var(--edge); border-radius: .5rem;
  color: var(--ink); background: var(--card); font: inherit }
label .field { margin-top: .35rem; font-weight: 400 }
.field:focus-visible { outline-offset: -1px }
.field[aria-invalid] { border-color: var(--bad) }
.notice { display: flex; gap: .65rem; align-items: flex-start; margin: 1.25rem 0 0; padding: .7rem .85rem;
  border-radius: .5rem; font-size: .9375rem; background: var(--paper);
  background: color-mix(in srgb, var(--tone) 9%, var(--card)) }
.notice .icon { margin-top: .1em; color: var(--tone) }
.notice p { margin: 0 }

.steps { margin: 1.1rem 0 0; padding-left: 1.25rem }
.steps li { padding-left: .2rem; margin: .35rem 0 }
.steps li::marker { color: var(--soft) }
.heading { margin-top: 1.5rem }
.causes { list-style: none; margin: 1.25rem 0 0; padding: 0; border-top: 1px solid var(--line) }
.causes > li { padding: .9rem 0; border-bottom: 1px solid var(--line) }
.causes p { margin: .2rem 0 0; color: var(--soft) }
.pill { display: inline-block; padding: .1rem .5rem; border-radius: 1rem; font-size: .75rem; font-weight: 600;
  line-height: 1.4; white-space: nowrap; color: var(--tone); background: var(--paper);
  background: color-mix(in srgb, var(--tone) 10%, var(--card)) }
.pill.plain { color: var(--soft); background: var(--paper); box-shadow: inset 0 0 0 1px var(--line) }

.site { display: flex; gap: .85rem; align-items: center; margin: 1.25rem 0; padding: .85rem 1rem;
  border: 1px solid var(--line); border-radius: .625rem }
.site p { margin: 0; min-width: 0; line-height: 1.4 }
.mono { display: grid; place-items: center; flex: none; width: 2.5rem; height: 2.5rem; border-radius: .625rem;
  font-weight: 600; font-size: .9375rem; line-height: 1; background: hsl(var(--hue) 65% 92%);
  color: hsl(var(--hue) 60% 29%); object-fit: contain; white-space: nowrap }
img.mono { padding: .35rem; background: var(--paper) }

.foot { margin-top: 1.75rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .8125rem }
.foot p { margin: .3rem 0 }
.foot code { user-select: all }
details { margin: .3rem 0 }
time { white-space: nowrap }
summary { cursor: pointer; width: fit-content }
.facts { display: grid; grid-template-columns: minmax(6rem, auto) minmax(0, 1fr); gap: .5rem 1.25rem;
  margin: .75rem 0 0 }
.facts dt { color: var(--soft) }
.facts dd { margin: 0 }
.traces { list-style: none; margin: .5rem 0 0; padding: 0 }
.traces > li { padding: .15rem 0 .15rem 1rem; border-left: 2px solid var(--line); margin: .9rem 0 }
.traces > li.no { border-color: var(--bad) }
.traces p { margin: .25rem 0 }
.traces .remedy { color: var(--soft) }
@media (prefers-color-scheme: dark) {
  .mono { background: hsl(var(--hue) 32% 22%); color: hsl(var(--hue) 80% 84%) } }
@media (max-width: 30rem) {
  body.single { align-content: start; padding: 1rem .75rem }
  .single > .card { padding: 1.5rem 1.25rem }
  .single .actions > *, .single .actions button { flex: 1 1 100% }
  .facts { grid-template-columns: minmax(0, 1fr); gap: .1rem }
  .facts dd + dt { margin-top: .6rem } }
@media (prefers-reduced-motion: reduce) { *, ::before, ::after { transition: none !important } }
@media (forced-colors: active) { .action, .badge, .mono, .pill { border: 1px solid } }
"""
    + "".join(f".h{at} {{ --hue: {hue} }} " for at, hue in enumerate(HUES))
    + "\n"
)

WIDE = """
[hidden] { display: none !important }
.seen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
.skip { position: absolute; left: .75rem; top: -4rem; z-index: 1; padding: .5rem 1rem; border-radius: .5rem;
  background: var(--card) }
.skip:focus { top: .75rem }
.bar { background: var(--card); border-bottom: 1px solid var(--line) }
.bar > div { display: flex; align-items: center; gap: .5rem 1.5rem; flex-wrap: wrap; max-width: 68rem;
  min-height: 3.75rem; margin: 0 auto; padding: .6rem 1.5rem }
.bar .logo { max-height: 1.75rem }
.brand { display: flex; align-items: center; gap: .6rem; margin: 0; font-weight: 600; min-width: 0 }
.bar nav { display: flex; gap: .25rem; margin-right: auto }
.bar nav a { padding: .35rem .7rem; border-radius: .45rem; color: var(--soft); text-decoration: none;
  font-size: .9375rem; font-weight: 500 }
.bar nav a:hover { color: var(--ink) }
.bar nav a[aria-current] { color: var(--ink); background: var(--paper); box-shadow: inset 0 0 0 1px var(--line) }
.bar .quiet { min-height: 2.25rem; padding: .35rem .8rem; font-size: .875rem }
.wide { max-width: 68rem; margin: 0 auto; padding: 2.25rem 1.5rem 4rem }
.wide.narrower { max-width: 50rem }
.top { display: flex; flex-wrap: wrap; align-items: end; justify-content: space-between; gap: 1rem 1.5rem }
.top p { margin: .3rem 0 0 }
.who { flex-wrap: nowrap; align-items: center; justify-content: start; gap: 1.1rem }
.who > div { min-width: 0 }
.who .mono { width: 3.75rem; height: 3.75rem; border-radius: 50%; font-size: 1.35rem }
.panel { margin-top: 1.25rem; padding: 1.4rem 1.5rem }
.panel > p { margin: .35rem 0 0 }
.panel .facts { grid-template-columns: 10rem minmax(0, 1fr) }
.facts .soft { display: block }
.tags { display: flex; flex-wrap: wrap; gap: .4rem; list-style: none; margin: .8rem 0 0; padding: 0 }
.tags .pill { white-space: normal; font-weight: 500; font-size: .8125rem; padding: .15rem .6rem }
.claims { width: 100%; margin-top: .6rem; border-collapse: collapse; table-layout: fixed; font-size: .9375rem }
.claims th, .claims td { padding: .55rem 0; border-top: 1px solid var(--line); text-align: left;
  vertical-align: baseline }
.claims thead th { border: 0; padding: 0; line-height: 0 }
.claims thead th:first-child { width: 12.5rem }
.claims tbody th { padding-right: 1.25rem; font-weight: 400; color: var(--soft) }
.claims tr:last-child > * { padding-bottom: 0 }
.claims ul { list-style: none; margin: 0; padding: 0 }
.rows { list-style: none; margin: .75rem 0 0; padding: 0 }
.rows > li { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1rem; padding: .75rem 0;
  border-top: 1px solid var(--line) }
.rows > li:last-child { padding-bottom: 0 }
.rows > li > div { flex: 1 1 14rem; min-width: 0 }
.rows p { margin: 0 }
.find { position: relative; flex: 0 1 20rem; display: flex; gap: .5rem; min-width: 0 }
.find .icon { position: absolute; left: .75rem; top: .68rem; color: var(--soft); pointer-events: none }
.find .field { padding-left: 2.4rem; min-width: 0 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem;
  list-style: none; margin: 1.5rem 0 0; padding: 0 }
.route { position: relative; display: flex; flex-direction: column; padding: 1.15rem 1.25rem;
  transition: border-color .12s, box-shadow .12s }
.route:hover { border-color: var(--edge) }
.route .head { display: flex; align-items: start; gap: .85rem }
.route .head > div { display: grid; align-content: center; min-width: 0; min-height: 2.5rem; flex: 1 }
.route .title { display: flex; flex-wrap: wrap; align-items: center; gap: 0 .5rem }
.route .head p { margin: 0 }
.route h2 { line-height: 1.3 }
.route h2 a { color: inherit; text-decoration: none }
.route h2 a::after { content: ""; position: absolute; inset: 0; border-radius: .875rem }
.route h2 a:focus-visible { outline: none }
.route h2 a:focus-visible::after { outline: 2px solid var(--link); outline-offset: 2px }
.route .about { margin: .85rem 0 0; color: var(--soft); font-size: .9375rem }
.command { display: flex; align-items: center; gap: .5rem; margin-top: auto; padding-top: .9rem }
.command pre { flex: 1; min-width: 0; margin: 0; padding: .55rem .75rem; border: 1px solid var(--line);
  border-radius: .5rem; background: var(--paper); white-space: pre;
  overflow-x: auto; scrollbar-width: thin; line-height: 1.3 }
.command code { user-select: all; font-size: .8125rem }
.command .quiet { flex: none; width: 2.4rem; min-height: 2.4rem; padding: 0; color: var(--soft) }
.command .quiet.done { color: var(--good) }
.empty { margin-top: 1.5rem; padding: 3rem 1.5rem; text-align: center }
.empty .badge { margin: 0 auto 1rem }
.empty p { max-width: 30rem; margin: .35rem auto 0; color: var(--soft) }
@media (max-width: 36rem) {
  .bar > div { padding: .6rem 1rem }
  .brand { flex: 1 1 60% }
  .bar nav { order: 1; width: 100%; margin: 0 }
  .bar nav a { flex: 1; text-align: center }
  .wide { padding: 1.5rem 1rem 3rem }
  .find { flex-basis: 100% }
  .panel { padding: 1.15rem 1.1rem }
  .panel .facts { grid-template-columns: minmax(0, 1fr) }
  .who .mono { width: 3rem; height: 3rem; font-size: 1.1rem }
  .claims thead { display: none }
  .claims tbody th, .claims td { display: block }
  .claims tbody tr > th { padding-bottom: 0 }
  .claims td { border: 0; padding-top: .1rem } }
"""
