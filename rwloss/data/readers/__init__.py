"""One reader a family of files; `rwloss.data.formats` chooses among them."""
