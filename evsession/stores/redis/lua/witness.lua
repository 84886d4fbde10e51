-- witness.lua: say what the workers have applied of a shard's log, and whether one of its entries still stands.
--
-- KEYS[1]  {ns:NN}:workers   KEYS[2]  {ns:NN}:birth   KEYS[3]  {ns:NN}:log
-- ARGV[1]  id of the entry   ARGV[2]  its event id
--
-- Returns {now, time of birth, 1 if the entry stands else 0, {worker, record, …}}
-- Cost    O(workers)

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local stands = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[3], ARGV[1], ARGV[1])) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'i' and entry[2][i + 1] == ARGV[2] then stands = 1 end
  end
end
local birth = redis.call('GET', KEYS[2]) or now
return {now, string.match(birth, '^%d+'), stands, redis.call('HGETALL', KEYS[1])}
