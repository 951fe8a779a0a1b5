# elixir -r KEYLOCK.exs subscribe.exs HOW USER...: a web server's requests, a process each, all at
# once: each looks whether its user has subscribed, charges, and writes a row. With HOW "locked", it
# does so while it holds the user's key, by the README's module Keylock, else without.
#
# $DATABASE and $SERVICE are as for subscribe.

defmodule Subscription do
  def request("locked", user), do: Keylock.held("user:" <> user, fn -> subscribe(user) end)
  def request("unlocked", user), do: {:ok, subscribe(user)}

  def subscribe(user) do
    case query("SELECT count(*) FROM subscriptions WHERE user = #{user}") do
      "0\n" ->
        receipt = charge(user)
        query("INSERT INTO subscriptions VALUES (#{user}, '#{receipt}')")
        receipt

      _ ->
        :before
    end
  end

  defp query(sql) do
    args = ["-batch", "-cmd", ".timeout 60000", System.fetch_env!("DATABASE"), sql]
    {output, 0} = System.cmd("sqlite3", args)
    output
  end

  defp charge(user) do
    url = String.to_charlist(System.fetch_env!("SERVICE") <> "/charge/" <> user)
    request = {url, [{'connection', 'close'}], 'text/plain', ''}
    {:ok, {{_, 200, _}, _, receipt}} = :httpc.request(:post, request, [], [])
    receipt
  end
end

{:ok, _} = Application.ensure_all_started(:inets)
[how | users] = System.argv()

users
|> Enum.map(fn user -> {user, Task.async(fn -> Subscription.request(how, user) end)} end)
|> Enum.each(fn {user, task} ->
  {:ok, result} = Task.await(task, :infinity)
  IO.puts("user #{user}: #{result}")
end)
