-- trim.lua: remove old entries from a log, never the last one, which proves the log's history to the workers.
--
-- KEYS[1]  {ns:NN}:log   KEYS[2]  {ns:NN}:end
-- ARGV[1]  how many ms of entries to keep
--
-- Returns how many entries went
-- Cost    O(how many went)

local time = redis.call('TIME')
local horizon = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[1]
local last = redis.call('GET', KEYS[2])
if not last then return 0 end
local ms = tonumber(string.match(last, '^%d+'))
local minid = ms < horizon and string.match(last, '^%S+') or string.format('%.0f', horizon)
return redis.call('XTRIM', KEYS[1], 'MINID', '~', minid)
