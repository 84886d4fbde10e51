-- enter.lua: put a session into the index of its user, and return the index.
--
-- Each entrance has a later time than the session's last, so that `leave` can tell whether one came in between.
--
-- KEYS[1]  {ns:u<hh>}:u:<user>  sid -> "<time> <device>"
-- ARGV[1]  sid   ARGV[2]  ms that the index is kept from now on, at least   ARGV[3]  device
-- ARGV[4]  "1" to enter anew a session that is there already   ARGV[5]  "1" to return the index
--
-- Returns {now, whether it was there, {sid, "<time> <device>", …}}
-- Cost    O(1); with the index O(n)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = redis.call('HGET', KEYS[1], ARGV[1])
if not before or ARGV[4] == '1' then
  local at = math.max(now, before and tonumber(string.match(before, '^%d+')) + 1 or 0)
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', at) .. ARGV[3])
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {now, before and 1 or 0, ARGV[5] == '1' and redis.call('HGETALL', KEYS[1]) or {}}
