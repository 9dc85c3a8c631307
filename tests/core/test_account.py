import pytest

from orchestrator.core.account import is_about_account, is_about_whole_account

OF_THE_ACCOUNT = [
    "You have exceeded your file storage quota. Organizations are limited to 100 GB of files. Please delete old files.",
    "You have exceeded your file storage quota. Projects are limited to 2.5TB of files.",
    "quotaExceeded The quota for files without expiry is reached. The maximum is 500.",
    "The number of files exceeds the limit of 500 for this resource",
    "The number of uploaded files has reached the limit",
    "You have reached the maximum number of files",
    "You've exceeded the maximum allowed number of stored files (500)",
    "Storage quota exceeded",
    "storage_limit_reached",
    "The project 'proj_1' has been archived and is no longer accessible",
    "Your project has been archived",
    "This organization has been disabled",
    "Your account is deactivated",
    "Batch queue limit reached",
    "The batch queue is full",
    "You have reached the maximum number of queued batch jobs",
    "Number of active batches exceeds the limit of 100",
    "Too many active batches",
]
OF_A_LINE = [
    "Too many inputs: the number of files exceeds the limit of 20 per message",
    "messages[0].content: number of files exceeds the limit",
    "File contains 60000 requests, which exceeds the maximum of 50000",
    "File is too large",
    "File exceeds the maximum allowed size of 100 bytes",
    "Body exceeds the maximum allowed size of 100 bytes",
    "Invalid schema for response_format 'storage quota exceeded'",
    'Input should be a list, input: "your project has been archived"',
    "Model 'm' is disabled for your account",
    "This model's maximum context length is 8192 tokens",
    "The number of messages exceeds the limit",
    "Array too long: expected a maximum length of 100",
    "Unsupported completion_window. Allowed values: 24h, 1h",
    "This model does not support batch processing",
    "a file_id is required in input_file",
    "max_tokens exceeds the limit",
    "Enqueued token limit reached for gpt-4o-mini in organization org-1. Limit: 2,000,000 enqueued tokens.",
    "The request was refused",
]


@pytest.mark.parametrize("text", OF_THE_ACCOUNT)
def test_what_an_account_may_store_and_run_is_its_own_matter_where_no_single_line_is_meant(text):
    assert is_about_whole_account(text)
    assert not is_about_account(text)


@pytest.mark.parametrize("text", OF_A_LINE)
def test_a_text_about_lines_or_their_file_is_none_about_the_account(text):
    assert not is_about_whole_account(text)


def test_money_is_the_whole_accounts_matter_too():
    assert is_about_whole_account("Your credit balance is too low")
