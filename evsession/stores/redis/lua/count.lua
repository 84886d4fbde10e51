-- count.lua: return what a log counts of itself, all at one moment.
--
-- KEYS[1]  {ns:NN}:log   KEYS[2]  {ns:NN}:end   KEYS[3]  {ns:NN}:trimmed
--
-- Returns {now, end or "", how many entries `trim` removed, XINFO STREAM's reply or nothing if there is no log}
-- Cost    O(1)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local counters = {now, redis.call('GET', KEYS[2]) or '', redis.call('GET', KEYS[3]) or '0'}
if redis.call('EXISTS', KEYS[1]) == 1 then counters[4] = redis.call('XINFO', 'STREAM', KEYS[1]) end
return counters
