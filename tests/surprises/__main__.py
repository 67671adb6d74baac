"""Write the page: `make openapi` calls this."""

from tests.surprises.page import PAGE, page

PAGE.write_text(page())
