"""Questions whose facts are spread over the files of a folder."""
