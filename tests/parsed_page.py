"""An HTML page as a test reads it."""

from html.parser import HTMLParser


class Parsed(HTMLParser):
    """A page's tags, the text by enclosing tag, and a proof that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self.open[-1] if self.open else "", data.strip()))

    def values(self, attribute: str, tag: str | None = None) -> list[str]:
        """Return an attribute's values, in the order of the page."""
        return [found for name, attributes in self.tags
                if tag in (None, name) and (found := attributes.get(attribute)) is not None]
