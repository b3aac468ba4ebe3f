"""MkDocs hooks: pages that do not lie in docs/ become pages of the site, too."""
import re
from pathlib import Path

from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[2]
OUTSIDE = ("*.md", "bench/README.md", "bench/results/*.md", "bench/results/*.png",
           "examples/rsyslog/*")


def on_files(files, config):
    """Add them under the paths that they have in the repository."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            if name != "README.md":  # index.md is the site's
                files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    files.append(File("site.css", str(Path(__file__).parent), config.site_dir,
                      config.use_directory_urls))
    files.append(File.generated(config, "code.css", content=HtmlFormatter().get_style_defs()))


def on_page_markdown(markdown, page, **_):
    """Lead links to where the files are now; a link to a program, alone in a line, becomes it."""
    markdown = re.sub(r"^\[examples/([\w.]+)\]\(\.\./examples/\1\)$", program, markdown,
                      flags=re.MULTILINE)
    return markdown.replace("](../", "](")


def program(link):
    path = ROOT / "examples" / link[1]
    language = {".py": "python", ".ini": "ini"}[path.suffix]
    return f"```{language}\n# {path.name}\n{path.read_text()}```"
