"""MkDocs hooks that add pages outside docs/ to the site."""
import re
from pathlib import Path

from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[2]
OUTSIDE = ("*.md", "bench/README.md", "bench/results/*.md", "bench/results/*.png",
           "examples/rsyslog/*")


def on_files(files, config):
    """Add these files to the site under their paths in the repository."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            if name != "README.md":  # the site uses docs/index.md instead
                files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    files.append(File("site.css", str(Path(__file__).parent), config.site_dir,
                      config.use_directory_urls))
    files.append(File.generated(config, "code.css", content=HtmlFormatter().get_style_defs()))


def on_page_markdown(markdown, page, **_):
    """Adjust links to the files' paths in the site and inline the example programs.

    A link to a program that is alone on its line is replaced by the program's source.
    """
    markdown = re.sub(r"^\[examples/([\w.]+)\]\(\.\./examples/\1\)$", program, markdown,
                      flags=re.MULTILINE)
    return markdown.replace("](../", "](")


def program(link):
    """Return the fenced source of the example that a link names."""
    path = ROOT / "examples" / link[1]
    language = {".py": "python", ".ini": "ini"}[path.suffix]
    return f"```{language}\n# {path.name}\n{path.read_text()}```"
