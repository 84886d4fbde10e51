-- due.lua: name sessions whose next deadline has passed, if it is this worker's turn to sweep.
--
-- KEYS[1]  {ns:NN}:exp   KEYS[2]  {ns:NN}:turn:sweep
-- ARGV[1]  how many   ARGV[2]  worker id   ARGV[3]  length of a turn in ms
--
-- Returns {sid, …}
-- Cost    O(log n + how many)

local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return {} end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
