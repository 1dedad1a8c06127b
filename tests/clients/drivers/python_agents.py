"""Agents of Python libraries, as their own documentation starts them: NAME URL QUESTION...

One tool, `calc(e)`. The questions are turns of one conversation. Prints {"answers", "calls"}, or
{"error": type} for a failure that the library raised itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

CALLS: list[str] = []
MODEL, KEY = "tiny", "python"


def calc(e: str) -> str:
    """Computes.

    Args:
        e: What to work on.
    """
    CALLS.append(e)
    return f"result of {e}"


def openai_agents(url: str, dialect: str, questions: list[str]) -> list[str]:
    from agents import (
        Agent,
        ModelSettings,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    kind = OpenAIResponsesModel if dialect == "responses" else OpenAIChatCompletionsModel
    agent = Agent(
        name="a",
        instructions="Be careful.",
        tools=[function_tool(calc)],
        model=kind(MODEL, client),
        model_settings=ModelSettings(),
    )

    async def talk() -> list[str]:
        history: Any = []
        answers = []
        for question in questions:
            done = await Runner.run(agent, [*history, {"role": "user", "content": question}])
            history = done.to_input_list()
            answers.append(done.final_output)
        return answers

    return asyncio.run(talk())


def pydantic_ai(url: str, dialect: str, questions: list[str]) -> list[str]:
    from pydantic_ai import Agent

    model: Any
    if dialect == "messages":
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        model = AnthropicModel(MODEL, provider=AnthropicProvider(base_url=url, api_key=KEY))
    else:
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider

        kind = OpenAIResponsesModel if dialect == "responses" else OpenAIChatModel
        model = kind(MODEL, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=KEY))
    agent = Agent(model, tools=[calc], system_prompt="Be careful.")
    history, answers = None, []
    for question in questions:
        done = agent.run_sync(question, message_history=history)
        history = done.all_messages()
        answers.append(str(done.output))
    return answers


def langchain(url: str, dialect: str, questions: list[str]) -> list[str]:
    from langchain.agents import create_agent

    model: Any
    if dialect == "messages":
        from langchain_anthropic import ChatAnthropic

        model = ChatAnthropic(model_name=MODEL, base_url=url, api_key=KEY, max_retries=0)
    else:
        from langchain_openai import ChatOpenAI

        model = ChatOpenAI(
            model=MODEL, base_url=f"{url}/v1", api_key=KEY, max_retries=0, use_responses_api=dialect == "responses"
        )
    agent = create_agent(model, [calc], system_prompt="Be careful.")
    history: list[Any] = []
    answers = []
    for question in questions:
        history = agent.invoke({"messages": [*history, ("user", question)]})["messages"]
        answers.append(history[-1].text)
    return answers


def smolagents(url: str, dialect: str, questions: list[str]) -> list[str]:
    from smolagents import OpenAIServerModel, ToolCallingAgent, tool

    model = OpenAIServerModel(MODEL, api_base=f"{url}/v1", api_key=KEY)
    agent = ToolCallingAgent(tools=[tool(calc)], model=model, verbosity_level=0, max_steps=6)
    return [str(agent.run(question, reset=n == 0)) for n, question in enumerate(questions)]


def inspect_ai(url: str, dialect: str, questions: list[str]) -> list[str]:
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, execute_tools, get_model
    from inspect_ai.tool import Tool, tool

    @tool(name="calc")
    def calculator() -> Tool:
        async def execute(e: str) -> str:
            """Computes.

            Args:
                e: What to work on.
            """
            return calc(e)

        return execute

    if dialect == "messages":
        model = get_model(f"anthropic/{MODEL}", base_url=url, api_key=KEY)
    else:
        model = get_model(f"openai/{MODEL}", base_url=f"{url}/v1", api_key=KEY, responses_api=dialect == "responses")

    async def talk() -> list[str]:
        history: list[Any] = [ChatMessageSystem(content="Be careful.")]
        answers = []
        for question in questions:
            history.append(ChatMessageUser(content=question))
            while True:
                out = await model.generate(history, tools=[calculator()])
                if out.stop_reason == "model_length":
                    raise OverflowError("model_length")
                history.append(out.message)
                if not out.message.tool_calls:
                    break
                history += (await execute_tools(history, [calculator()])).messages
            answers.append(out.message.text)
        return answers

    return asyncio.run(talk())


AGENTS: dict[str, Callable[[str, str, list[str]], list[str]]] = {
    f.__name__: f for f in (openai_agents, pydantic_ai, langchain, smolagents, inspect_ai)
}


def main(name: str, url: str, dialect: str, *questions: str) -> None:
    try:
        answers = AGENTS[name](url, dialect, list(questions))
        print(json.dumps({"answers": answers, "calls": len(CALLS)}))
    except Exception as error:  # which one it is, is what the caller wants to know
        chain, cause = [], error
        while cause is not None:
            chain.append(type(cause).__name__)
            cause = cause.__cause__ or cause.__context__
        print(json.dumps({"error": chain, "said": str(error)[:400], "calls": len(CALLS)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
