"""SVG texts with one palette for light and one for dark pages; every picture brings its own background."""

from html import escape

MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
LIGHT = {"bg": "#ffffff", "panel": "#f6f8fa", "line": "#d1d9e0", "fg": "#1f2328", "muted": "#59636e", "main": "#0969da",
         "other": "#8c959f", "good": "#1a7f37", "warn": "#9a6700", "bad": "#d1242f"}
DARK = {"bg": "#0d1117", "panel": "#161b22", "line": "#3d444d", "fg": "#e6edf3", "muted": "#9198a1", "main": "#4493f8",
        "other": "#656c76", "good": "#3fb950", "warn": "#d29922", "bad": "#f85149"}


def rules(palette):
    return "".join(f".{name}{{fill:{colour}}}" for name, colour in palette.items()) + f".frame{{stroke:{palette['line']}}}"


def number(value):
    return f"{value:.1f}".rstrip("0").rstrip(".")


def text(x, y, content, kind="fg", size=13, mono=False, bold=False, anchor="start"):
    extra = (' font-weight="600"' if bold else "") + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    family = ' class="%s mono"' % kind if mono else f' class="{kind}"'
    return f'<text x="{number(x)}" y="{number(y)}" font-size="{size}"{family}{extra} xml:space="preserve">{escape(content)}</text>'


def rect(x, y, width, height, kind, radius=0, framed=False):
    frame = f'{kind} frame' if framed else kind
    return (f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" rx="{radius}" '
            f'class="{frame}"/>')


def line(x1, y1, x2, y2):
    return (f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" class="frame" '
            f'stroke-dasharray="3 3"/>')


def document(width, height, title, description, parts):
    style = (f"text{{font-family:{SANS}}}.mono{{font-family:{MONO}}}" + rules(LIGHT)
             + "@media (prefers-color-scheme: dark){" + rules(DARK) + "}")
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(height)}" '
            f'width="{number(width)}" height="{number(height)}" role="img" aria-labelledby="title description">')
    body = [head, f'<title id="title">{escape(title)}</title>', f'<desc id="description">{escape(description)}</desc>',
            f"<style>{style}</style>", rect(0, 0, width, height, "bg", 8), *parts, "</svg>"]
    return "\n".join(body) + "\n"
