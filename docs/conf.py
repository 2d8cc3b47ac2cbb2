"Sphinx settings; copied into _stage by docs/stage.py, and read there"
from pathlib import Path

project = author = "reasonlab"
copyright = "2026, reasonlab developers"
extensions = ["myst_nb", "sphinxcontrib.bibtex", "sphinx_design", "sphinx_copybutton", "sphinx_togglebutton", "sphinx_exercise"]
exclude_patterns = ["_build"]

nb_execution_mode = "off"  # the notebooks were executed by the tests; the site shows what they stored
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # tables, where a cell displays markdown
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a lifted signature starts below its section
bibtex_bibfiles = ["refs.bib"]
bibtex_reference_style = "author_year"

html_theme = "sphinx_book_theme"
html_title = "reasonlab"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["reasonlab.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = dict(
    repository_url="https://github.com/reasonlab/reasonlab", use_repository_button=True, use_download_button=False,
    show_navbar_depth=1, show_toc_level=2, home_page_in_toc=True, pygments_light_style="a11y-high-contrast-light",
    pygments_dark_style="a11y-high-contrast-dark", navigation_with_keys=True, navbar_persistent=[],
)
nb_code_prompt_show, nb_code_prompt_hide = "Show the source", "Hide the source"
html_context = {"default_mode": "auto"}  # light or dark as the reader's system says
togglebutton_hint, togglebutton_hint_hide = "Show", "Hide"
if Path(__file__).with_name("_static").joinpath("mathjax").is_dir(): mathjax_path = "mathjax/tex-chtml.js"  # `make mathjax`

# What the writers get wrong for a reader who listens: a label that hides the words of a fold, list items that are none.
REPAIRS = {'<summary aria-label="Toggle hidden content">': "<summary>", ' role="doc-biblioentry"': ' role="listitem"'}


def repair(app, page, template, context, doctree):
    for wrong, right in REPAIRS.items(): context["body"] = context.get("body", "").replace(wrong, right)


def setup(app): app.connect("html-page-context", repair)
