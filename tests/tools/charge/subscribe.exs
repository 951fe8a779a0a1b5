# elixir -r KEYLOCK.exs subscribe.exs HOW USER...: a web server's requests, a process each, all at
# once: each looks whether its user has subscribed, charges, and writes a row. With HOW "locked", it
# does so while it holds the user's key, by the README's module Keylock, else without.
#
# $DATABASE and $SERVICE are as for subscribe.

defmodule Subscription do
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
    url = System.fetch_env!("SERVICE") <> "/charge/" <> user
    {receipt, 0} = System.cmd("curl", ["-fsS", "-X", "POST", url])
    receipt
  end
end

[how | users] = System.argv()

request = fn user ->
  work = fn -> Subscription.subscribe(user) end
  {:ok, result} = if how == "locked", do: Keylock.held("user:" <> user, work), else: {:ok, work.()}
  IO.puts("user #{user}: #{result}")
end

users
|> Enum.map(fn user -> Task.async(fn -> request.(user) end) end)
|> Enum.each(fn task -> Task.await(task, :infinity) end)
