"""How the 3,755 most common characters (GB 2312, level 1) are read: pinyin with its tone, 5 for the neutral one.

Derived from the data of pypinyin 0.55.0, <https://github.com/mozillazg/python-pinyin>: of each character the first
reading, which is the usual one of the character alone. Its licence:

The MIT License (MIT)

Copyright (c) 2016 mozillazg, 闲耘 <hotoo.cn@gmail.com>

Permission is hereby granted, free of charge, to any person obtaining a copy of
this software and associated documentation files (the "Software"), to deal in
the Software without restriction, including without limitation the rights to
use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
the Software, and to permit persons to whom the Software is furnished to do so,
subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

import re
from functools import cache

READINGS = """
a1阿 a5啊 ai1埃挨哎唉哀 ai2皑癌 ai3蔼矮 ai4艾碍爱隘 an1鞍氨安 an3俺 an4按暗岸胺案 ang1肮 ang2昂 ang4盎 ao1凹 ao2敖熬翱 ao3袄 ao4傲奥懊澳
ba1芭捌扒叭笆八疤巴 ba2拔跋 ba3靶把 ba4耙坝霸罢爸 ba5吧 bai2白 bai3柏百摆佰 bai4败拜稗 ban1斑班搬扳般颁 ban3板版 ban4扮拌伴瓣半办绊 bang1邦帮梆 bang3榜膀绑
bang4棒磅蚌镑傍谤 bao1苞胞包褒 bao2薄雹 bao3保堡饱宝 bao4抱报暴豹鲍爆 bei1杯碑悲卑 bei3北 bei4辈背贝钡倍狈备惫焙被 ben1奔 ben3苯本 ben4笨 beng1崩绷
beng2甭 beng4泵蹦迸 bi1逼 bi2鼻 bi3比鄙笔彼 bi4碧蓖蔽毕毙毖币庇痹闭敝弊必壁臂避陛 bian1鞭边编 bian3贬扁 bian4便变卞辨辩辫遍 biao1标彪膘 biao3表 bie1鳖憋
bie2别 bie3瘪 bin1彬斌濒滨宾 bin4摈 bing1兵冰 bing3柄丙秉饼炳 bing4病并 bo1剥玻菠播拨钵波 bo2博勃搏铂箔伯帛舶脖膊渤驳 bo5卜 bu3捕哺补 bu4埠不布步簿部怖
ca1擦 cai1猜 cai2裁材才财 cai3睬踩采彩 cai4菜蔡 can1餐参 can2蚕残惭 can3惨 can4灿掺 cang1苍舱仓沧 cang2藏 cao1操糙 cao2槽曹 cao3草
ce4厕策侧册测 ceng2层曾 ceng4蹭 cha1插叉 cha2茬茶查碴搽察 cha4岔差诧 chai1拆 chai2柴豺 chan1搀 chan2蝉馋谗缠 chan3铲产阐 chan4颤 chang1昌猖
chang2尝常偿肠 chang3场厂敞 chang4畅唱倡 chao1超抄钞 chao2朝嘲潮巢 chao3吵炒 che1车 che3扯 che4撤掣彻澈 chen1郴 chen2臣辰尘晨忱沉陈 chen4趁衬
cheng1撑称 cheng2城橙成呈乘程惩澄诚承 cheng3逞骋 cheng4秤 chi1吃痴 chi2持池迟弛驰 chi3耻齿侈尺 chi4赤翅斥炽 chong1充冲 chong2虫崇 chong3宠
chou1抽 chou2酬畴踌稠愁筹仇绸 chou3瞅丑 chou4臭 chu1初出 chu2橱厨躇锄雏滁除 chu3楚础储 chu4矗搐触处畜 chuai1揣 chuan1川穿 chuan2椽传船 chuan3喘
chuan4串 chuang1疮窗 chuang2幢床 chuang3闯 chuang4创 chui1吹炊 chui2捶锤垂椎 chun1春椿 chun2醇唇淳纯 chun3蠢 chuo1戳 chuo4绰 ci1疵
ci2茨磁雌辞慈瓷词 ci3此 ci4刺赐次伺 cong1聪葱囱匆 cong2从丛 cou4凑 cu1粗 cu4醋簇促 cuan1蹿 cuan4篡窜 cui1摧崔催 cui4脆瘁粹淬翠 cun1村 cun2存
cun4寸 cuo1磋撮搓 cuo4措挫错 da1搭瘩 da2达答 da3打 da4大 dai1呆 dai3歹傣逮 dai4戴带殆代贷袋待怠 dan1耽担丹单郸 dan3掸胆 dan4旦氮但惮淡诞弹蛋 dang1当
dang3挡党 dang4荡档 dao1刀 dao3捣蹈岛祷导 dao4倒到稻悼道盗 de2德得 de5的 deng1蹬灯登 deng3等 deng4瞪凳邓 di1堤低滴 di2迪敌笛狄涤翟嫡 di3抵底
di4地蒂第帝弟递缔 dian1颠掂滇甸 dian3碘点典 dian4靛垫电佃店惦奠淀殿 diao1碉叼雕凋刁 diao4掉吊钓调 die1跌爹 die2碟蝶迭谍叠 ding1丁盯叮钉 ding3顶鼎
ding4锭定订 diu1丢 dong1东冬 dong3董懂 dong4动栋侗恫冻洞 dou1兜都 dou3抖陡 dou4斗豆逗痘 du1督 du2毒犊独读 du3堵睹赌 du4杜镀肚度渡妒 duan1端
duan3短 duan4锻段断缎 dui1堆 dui4兑队对 dun1墩吨蹲敦 dun4顿囤钝盾遁 duo1掇哆多 duo2夺 duo3垛躲朵 duo4跺舵剁惰堕 e2蛾峨鹅俄额讹娥 e4恶厄扼遏鄂饿 en1恩
er2而儿 er3耳尔饵洱 er4二贰 fa1发 fa2罚筏伐乏阀 fa3法 fa4珐 fan1藩帆番翻 fan2樊矾钒繁凡烦 fan3反返 fan4范贩犯饭泛 fang1坊芳方 fang2肪房防妨 fang3仿访纺
fang4放 fei1菲非啡飞 fei2肥 fei3匪诽 fei4吠肺废沸费 fen1芬酚吩氛分纷 fen2坟焚汾 fen3粉 fen4奋份忿愤粪 feng1丰封枫蜂峰锋风疯烽 feng2逢冯 feng3讽
feng4缝奉凤 fou3否 fu1夫敷肤孵 fu2佛扶拂辐幅氟符伏俘服浮涪福袱弗 fu3甫抚辅俯釜斧腑府腐 fu4赴副覆赋复傅付阜父腹负富讣附妇缚咐 ga1嘎 ga2噶 gai1该 gai3改 gai4概钙盖溉
gan1甘杆柑竿肝 gan3赶感秆敢 gan4干赣 gang1冈刚钢缸肛纲杠 gang3岗港 gao1篙皋高膏羔糕 gao3搞镐稿 gao4告 ge1哥歌搁戈鸽胳疙割咯 ge2革葛格阁隔 ge4铬个各 gei3给
gen1根跟 geng1耕庚羹 geng3埂耿梗 geng4更 gong1工攻功恭龚供躬公宫弓 gong3巩汞拱 gong4贡共 gou1钩勾沟 gou3苟狗 gou4垢构购够 gu1辜菇咕箍估沽孤姑
gu3鼓古蛊骨谷股 gu4故顾固雇 gua1刮瓜 gua3剐寡 gua4挂褂 guai1乖 guai3拐 guai4怪 guan1棺关官冠观 guan3管馆 guan4罐惯灌贯 guang1光 guang3广
guang4逛 gui1瑰规圭硅归龟闺傀 gui3轨鬼诡癸 gui4桂柜跪贵刽炔 gun3辊滚 gun4棍 guo1锅郭 guo2国 guo3果裹 guo4过 ha1哈 ha2蛤 hai2骸孩还 hai3海
hai4氦亥害骇 han1酣憨 han2邯韩含涵寒函 han3喊罕 han4翰撼捍旱憾悍焊汗汉 hang1夯 hang2杭航 hao2壕嚎豪毫貉 hao3郝好 hao4耗号浩 he1呵喝 he2荷菏核禾和何合盒阂河涸
he4赫褐鹤贺 hei1嘿黑 hen2痕 hen3很狠 hen4恨 heng1哼亨 heng2横衡恒 hong1轰烘 hong2虹鸿洪宏弘红 hong3哄 hou2喉侯猴 hou3吼 hou4厚候后 hu1呼乎忽
hu2瑚壶葫胡蝴狐糊湖弧 hu3虎唬 hu4护互沪户 hua1花哗 hua2华猾滑 hua4画划化话 huai2槐徊怀淮 huai4坏 huan1欢 huan2环桓 huan3缓 huan4换患唤痪豢焕涣宦幻
huang1荒慌 huang2黄磺蝗簧皇凰惶煌 huang3晃幌恍谎 hui1灰挥辉徽恢 hui2蛔回 hui3毁悔 hui4慧卉惠晦贿秽会烩汇讳诲绘 hun1荤昏婚 hun2魂浑 hun4混 huo1豁 huo2活
huo3伙火 huo4获或惑霍货祸 ji1击圾基机畸稽积箕肌饥激讥鸡姬缉 ji2吉极棘辑籍集及急疾汲即嫉级脊藉 ji3挤几己 ji4迹绩蓟技冀季伎祭剂悸济寄寂计记既忌际妓继纪 jia1嘉枷夹佳家加茄 jia2荚颊
jia3贾甲钾假 jia4稼价架驾嫁 jian1歼监坚尖笺间煎兼肩艰奸缄 jian3茧检柬碱硷拣捡简俭剪减 jian4荐鉴践贱见键箭件健舰剑饯渐溅涧建 jiang1僵姜将浆江疆 jiang3蒋桨奖讲
jiang4匠酱降 jiao1蕉椒礁焦胶交郊浇骄娇 jiao3搅铰矫侥脚狡角饺缴绞剿 jiao4教酵轿较叫窖 jie1揭接皆秸街阶 jie2截劫节杰捷睫竭洁结 jie3解姐 jie4戒芥界借介疥诫届
jin1巾筋斤金今津襟 jin3紧锦仅谨尽 jin4进靳晋禁近烬浸劲 jing1荆兢茎睛晶鲸京惊精粳经 jing3井警景颈 jing4静境敬镜径痉靖竟竞净 jiong3炯窘 jiu1揪究纠 jiu3玖韭久灸九酒
jiu4厩救旧臼舅咎就疚 ju1鞠拘狙疽居驹 ju2桔菊局 ju3咀矩举沮 ju4聚拒据巨具距踞锯俱句惧炬剧 juan1捐鹃娟 juan3卷 juan4倦眷绢 jue1撅 jue2嚼攫抉掘倔爵觉决诀绝
jun1均菌钧军君 jun4峻俊竣浚郡骏 ka1喀咖 ka3卡 kai1开揩 kai3楷凯慨 kan1刊堪勘 kan3槛坎砍 kan4看 kang1康慷糠 kang2扛 kang4抗亢炕 kao3考拷烤 kao4靠
ke1苛柯棵磕颗科 ke2壳咳 ke3坷可渴 ke4克刻客课 ken3肯啃垦恳 keng1坑吭 kong1空 kong3恐孔 kong4控 kou1抠 kou3口 kou4扣寇 ku1枯哭窟 ku3苦 ku4酷库裤
kua1夸 kua3垮 kua4挎跨胯 kuai4块筷侩快 kuan1宽 kuan3款 kuang1匡筐框 kuang2狂 kuang4矿眶旷况 kui1亏盔岿窥 kui2葵奎魁 kui4馈愧溃 kun1坤昆
kun3捆 kun4困 kuo4括扩廓阔 la1垃拉 la3喇 la4蜡腊辣 la5啦 lai2莱来 lai4赖 lan2蓝婪栏拦篮阑兰澜谰 lan3揽览懒缆 lan4烂滥 lang2琅榔狼廊郎 lang3朗
lang4浪 lao1捞 lao2劳牢 lao3老佬姥潦 lao4酪烙涝 le1肋 le4乐 le5了 lei1勒 lei2雷镭擂 lei3蕾磊儡垒 lei4累类泪 leng2棱楞 leng3冷 li1哩
li2厘梨犁黎篱狸离漓璃 li3理李里鲤礼 li4莉荔吏栗丽厉励砾历利傈例俐痢立粒沥隶力 lia3俩 lian2联莲连镰廉怜涟帘 lian3敛脸 lian4链恋炼练 liang2粮凉梁粱良 liang3两
liang4辆量晾亮谅 liao1撩 liao2聊僚疗燎寥辽 liao4撂镣廖料 lie4列裂烈劣猎 lin1拎 lin2琳林磷霖临邻鳞淋 lin3凛 lin4赁吝 ling2玲菱零龄铃伶羚凌灵陵 ling3岭领
ling4另令 liu1溜 liu2琉榴硫馏留刘瘤流 liu3柳 liu4六 long2龙聋咙笼窿隆 long3垄拢陇 lou2楼娄 lou3搂篓 lou4漏陋 lu2芦卢颅庐炉 lu3掳卤虏鲁
lu4麓碌露路赂鹿潞禄录陆戮 luan2峦挛孪滦 luan3卵 luan4乱 lun1抡 lun2轮伦仑沦纶 lun4论 luo2萝螺罗逻锣箩骡 luo3裸 luo4落洛骆络 lv2驴 lv3吕铝侣旅履屡缕
lv4虑氯律率滤绿 lve4掠略 ma1妈 ma2麻 ma3玛码蚂马 ma4骂 ma5嘛吗 mai2埋 mai3买 mai4麦卖迈脉 man2瞒馒蛮谩 man3满 man4蔓曼慢漫 mang2芒茫盲氓忙 mang3莽
mao1猫 mao2茅锚毛矛 mao3铆卯 mao4茂冒帽貌贸 me5么 mei2玫枚梅酶霉煤没眉媒 mei3镁每美 mei4昧寐妹媚 men2门 men4闷 men5们 meng2萌蒙檬盟 meng3锰猛
meng4梦孟 mi1眯 mi2醚靡糜迷谜弥 mi3米 mi4秘觅泌蜜密幂 mian2棉眠绵 mian3冕免勉娩缅 mian4面 miao2苗描瞄 miao3藐秒渺 miao4庙妙 mie4蔑灭 min2民
min3抿皿敏悯闽 ming2明螟鸣铭名 ming4命 miu4谬 mo1摸 mo2摹蘑模膜磨摩魔 mo3抹 mo4末莫墨默沫漠寞陌 mou2谋牟 mou3某 mu3拇牡亩姆母 mu4墓暮幕募慕木目睦牧穆 na2拿
na3哪 na4呐钠那娜纳 nai3氖乃奶 nai4耐奈 nan2南男难 nang2囊 nao2挠 nao3脑恼 nao4闹淖 ne5呢 nei3馁 nei4内 nen4嫩 neng2能 ni1妮 ni2霓倪泥尼
ni3拟你 ni4匿腻逆溺 nian1蔫拈 nian2年 nian3碾撵捻辗 nian4念 niang2娘 niang4酿 niao3鸟 niao4尿 nie1捏 nie4聂孽啮镊镍涅 nin2您
ning2柠狞凝宁拧 ning4泞 niu2牛 niu3扭钮纽 nong2脓浓农 nong4弄 nu2奴 nu3努 nu4怒 nuan3暖 nuo2挪 nuo4懦糯诺 nv3女 nve4虐疟 o2哦 ou1欧鸥殴沤
ou3藕呕偶 pa1啪趴 pa2爬琶 pa4帕怕 pai1拍 pai2排牌徘 pai4湃派 pan1攀潘 pan2盘磐 pan4盼畔判叛 pang1乓 pang2庞旁 pang3耪 pang4胖 pao1抛
pao2咆刨袍 pao3跑 pao4炮泡 pei1呸胚 pei2培裴赔陪 pei4配佩沛 pen1喷 pen2盆 peng1砰抨烹澎 peng2彭蓬棚硼篷膨朋鹏 peng3捧 peng4碰 pi1坯砒霹批披劈
pi2琵毗啤脾疲皮 pi3匹痞 pi4辟僻屁譬 pian1篇偏 pian4片骗 piao1飘漂 piao2瓢 piao4票 pie1撇瞥 pin1拼 pin2频贫 pin3品 pin4聘 ping1乒
ping2坪苹萍平凭瓶评屏 po1泊坡泼 po2婆 po3颇 po4破魄迫粕 pou1剖 pu1扑仆 pu2脯莆葡菩蒲 pu3埔朴圃普浦谱 pu4铺曝瀑 qi1期欺栖戚妻七凄漆柒沏 qi2其棋奇歧畦崎脐齐旗祈祁骑
qi3起岂乞企启 qi4契砌器气迄弃汽泣讫 qia1掐 qia4恰洽 qian1牵扦钎铅千迁签仟谦 qian2乾黔钱钳前潜 qian3遣浅谴 qian4堑嵌欠歉 qiang1枪呛腔羌 qiang2墙蔷强
qiang3抢 qiao1橇锹敲悄 qiao2桥瞧乔侨 qiao3巧 qiao4鞘撬翘峭俏窍 qie3且 qie4切怯窃 qin1钦侵亲 qin2秦琴勤芹擒禽 qin3寝 qin4沁 qing1青轻氢倾卿清
qing2擎晴氰情 qing3顷请 qing4庆 qiong2琼穷 qiu1秋丘邱 qiu2球求囚酋泅 qu1趋区蛆曲躯屈驱 qu2渠 qu3取娶龋 qu4趣去 quan1圈 quan2颧权醛泉全痊拳 quan3犬
quan4券劝 que1缺 que2瘸 que4却鹊榷确雀 qun2裙群 ran2然燃 ran3冉染 rang2瓤 rang3壤攘嚷 rang4让 rao2饶 rao3扰 rao4绕 re3惹 re4热
ren2壬仁人 ren3忍 ren4韧任认刃妊纫 reng1扔 reng2仍 ri4日 rong1茸 rong2戎蓉荣融熔溶容绒 rong3冗 rou2揉柔 rou4肉 ru2茹蠕儒孺如 ru3辱乳汝 ru4入褥
ruan3软阮 rui3蕊 rui4瑞锐 run4闰润 ruo4若弱 sa1撒 sa3洒 sa4萨 sai1腮鳃塞 sai4赛 san1三叁 san3伞 san4散 sang1桑 sang3嗓 sang4丧
sao1搔骚 sao3扫嫂 se4瑟色涩 sen1森 seng1僧 sha1莎砂杀刹沙纱煞 sha2啥 sha3傻 sha4厦 shai1筛 shai4晒 shan1珊苫杉山删煽衫 shan3闪陕
shan4擅赡膳善汕扇缮 shang1墒伤商 shang3赏晌 shang4上尚 shang5裳 shao1梢捎稍烧 shao2芍勺韶 shao3少 shao4哨邵绍 she1奢赊 she2蛇舌 she3舍
she4赦摄射慑涉社设 shen1砷申呻伸身深娠绅 shen2神什 shen3沈审婶 shen4甚肾慎渗 sheng1声生甥牲升 sheng2绳 sheng3省 sheng4盛剩胜圣 shi1师失狮施湿诗尸虱
shi2十石拾时食蚀实识 shi3史矢使屎驶始 shi4式示士世柿事拭誓逝势是嗜噬适仕侍释饰氏市恃室视试似 shi5匙 shou1收 shou3手首守 shou4寿授售受瘦兽 shu1蔬枢梳殊抒输叔舒淑疏书
shu2赎孰熟 shu3薯暑曙署蜀黍鼠属 shu4术述树束戍竖墅庶数漱恕 shua1刷 shua3耍 shuai1摔衰 shuai3甩 shuai4帅 shuan1栓拴 shuang1霜双 shuang3爽
shui2谁 shui3水 shui4睡税 shun3吮 shun4瞬顺舜 shuo1说 shuo4硕朔烁 si1斯撕嘶思私司丝 si3死 si4肆寺嗣四饲巳 song1松 song3耸怂 song4颂送宋讼诵
sou1搜艘 sou3擞 sou4嗽 su1苏酥 su2俗 su4素速粟僳塑溯宿诉肃 suan1酸 suan4蒜算 sui1虽 sui2隋随绥 sui3髓 sui4碎岁穗遂隧祟 sun1孙 sun3损笋
suo1蓑梭唆缩 suo3琐索锁所 ta1塌他它她 ta3塔獭 ta4挞蹋踏 tai1胎 tai2苔抬台 tai4泰酞太态汰 tan1坍摊贪瘫滩 tan2坛檀痰潭谭谈 tan3坦毯袒 tan4碳探叹炭 tang1汤
tang2塘搪堂棠膛唐糖 tang3倘躺淌 tang4趟烫 tao1掏涛滔绦 tao2萄桃逃淘陶 tao3讨 tao4套 te4特 teng2藤腾疼誊 ti1梯剔踢锑 ti2提题蹄啼 ti3体 ti4替嚏惕涕剃屉
tian1天添 tian2填田甜恬 tian3舔腆 tiao1挑 tiao2条迢 tiao4眺跳 tie1贴帖 tie3铁 ting1厅听烃汀 ting2廷停亭庭 ting3挺艇 tong1通
tong2桐酮瞳同铜彤童 tong3桶捅筒统 tong4痛 tou1偷 tou2投头 tou4透 tu1凸秃突 tu2图徒途涂屠 tu3土吐 tu4兔 tuan1湍 tuan2团 tui1推 tui2颓 tui3腿
tui4蜕褪退 tun1吞 tun2屯臀 tuo1拖托脱 tuo2鸵陀驮驼 tuo3椭妥 tuo4拓唾 wa1挖蛙洼 wa2娃 wa3瓦 wa4袜 wa5哇 wai1歪 wai4外 wan1豌弯湾 wan2玩顽丸烷完
wan3碗挽晚皖惋宛婉 wan4万腕 wang1汪 wang2王亡 wang3枉网往 wang4旺望忘妄 wei1威巍微危萎 wei2韦违桅围唯惟潍维 wei3苇委伟伪尾纬 wei4为未蔚味畏胃喂魏位渭谓尉慰卫
wen1瘟温 wen2蚊文闻纹 wen3吻稳紊 wen4问 weng1嗡翁 weng4瓮 wo1挝蜗涡窝 wo3我 wo4斡卧握沃 wu1巫呜钨乌污诬屋 wu2无芜梧吾吴毋 wu3武五捂午舞伍侮
wu4坞戊雾晤物勿务悟误 xi1昔熙析西硒晰嘻吸锡牺稀息希悉膝夕惜熄烯溪汐犀 xi2檄袭席习媳 xi3喜铣洗 xi4矽系隙戏细 xia1瞎虾 xia2匣霞辖暇峡侠狭 xia4下夏吓 xian1掀锨先仙鲜纤
xian2咸贤衔舷闲涎弦嫌 xian3显险 xian4现献县腺馅羡宪陷限线 xiang1相厢镶香箱襄湘乡 xiang2翔祥详 xiang3想响享 xiang4项巷橡像向象 xiao1萧硝霄哮嚣销消宵 xiao2淆
xiao3晓小 xiao4孝校肖啸笑效 xie1楔些歇蝎 xie2鞋协挟携邪斜胁谐 xie3写 xie4械卸蟹懈泄泻谢屑 xin1薪芯锌欣辛新忻心 xin4信衅 xing1星腥猩惺兴 xing2刑型形邢行
xing3醒 xing4幸杏性姓 xiong1兄凶胸匈汹 xiong2雄熊 xiu1休修羞 xiu3朽 xiu4嗅锈秀袖绣 xu1墟戌需虚嘘须吁 xu2徐 xu3许 xu4蓄酗叙旭序恤絮婿绪续 xuan1轩喧宣
xuan2悬旋玄 xuan3选癣 xuan4眩绚 xue1削靴薛 xue2学穴 xue3雪 xue4血 xun1勋熏 xun2循旬询寻巡 xun4驯殉汛训讯逊迅 ya1压押鸦鸭丫 ya2芽牙蚜崖衙涯 ya3雅哑
ya4亚讶轧 ya5呀 yan1焉阉烟淹 yan2盐严研蜒岩延言颜阎炎沿 yan3奄掩眼衍演 yan4咽艳堰燕厌砚雁唁彦焰宴谚验 yang1殃央鸯秧 yang2杨扬佯疡羊洋阳 yang3氧仰痒养 yang4样漾
yao1邀腰妖 yao2瑶摇尧遥窑谣姚 yao3咬舀 yao4药要耀钥 ye1椰噎掖 ye2耶爷 ye3野冶也 ye4页业叶曳腋夜液 yi1一壹医揖铱依伊衣 yi2颐夷遗移仪胰疑沂宜姨彝 yi3椅蚁倚已乙矣以
yi4艺抑易邑屹亿役臆逸肄疫亦裔意毅忆义益溢诣议谊译异翼翌绎 yin1茵荫因殷音阴姻 yin2吟银淫寅 yin3饮尹引隐 yin4印 ying1英樱婴鹰应缨 ying2莹萤营荧蝇迎赢盈 ying3影颖 ying4硬映
yo1哟 yong1拥佣臃痈庸雍 yong3踊蛹咏泳涌永恿勇 yong4用 you1幽优悠忧 you2尤由邮铀犹油游 you3酉有友 you4右佑釉诱又幼 yu1迂淤 yu2于盂榆虞愚舆余俞逾鱼愉渝渔隅娱
yu3予雨与屿禹宇语羽 yu4玉域芋郁遇喻峪御愈欲狱育誉浴寓裕预豫驭 yuan1鸳渊冤 yuan2元垣袁原援辕园员圆猿源缘 yuan3远 yuan4苑愿怨院 yue1曰约 yue4越跃岳粤月悦阅 yun1晕
yun2耘云郧匀 yun3陨允 yun4运蕴酝韵孕 za1匝 za2砸杂 za3咋 zai1栽哉灾 zai3宰仔 zai4载再在 zan2咱 zan3攒 zan4暂赞 zang1赃 zang4脏葬 zao1遭糟
zao2凿 zao3藻枣早澡蚤 zao4躁噪造皂灶燥 ze2责择则泽 zei2贼 zen3怎 zeng1增憎 zeng4赠 zha1扎喳渣 zha2札铡闸 zha3眨 zha4栅榨乍炸诈柞 zhai1摘斋
zhai2宅 zhai3窄 zhai4债寨 zhan1瞻毡詹粘沾 zhan3盏斩崭展 zhan4蘸栈占战站湛绽 zhang1樟章彰漳张 zhang3长掌涨 zhang4杖丈帐账仗胀瘴障 zhao1招昭
zhao3找沼爪 zhao4赵照罩兆肇召 zhe1遮 zhe2折哲蛰辙 zhe3者锗 zhe4蔗这浙 zhe5着 zhen1珍斟真甄砧臻贞针侦帧 zhen3枕疹诊 zhen4震振镇阵 zheng1蒸挣睁征狰争怔
zheng3整拯 zheng4正政症郑证 zhi1芝枝支吱蜘知肢脂汁之织 zhi2职直植殖执值侄 zhi3址指止趾只旨纸 zhi4志挚掷至致置帜峙制智秩稚质炙痔滞治窒 zhong1中盅忠钟衷终 zhong3种肿
zhong4重仲众 zhou1舟周州洲诌粥 zhou2轴 zhou3肘帚 zhou4咒皱宙昼骤 zhu1珠株蛛朱猪诸诛 zhu2逐竹烛 zhu3煮拄瞩嘱主 zhu4著柱助蛀贮铸筑住注祝驻 zhua1抓 zhuai1拽
zhuan1专砖 zhuan3转 zhuan4撰赚篆 zhuang1桩庄装妆 zhuang4撞壮状 zhui1锥追 zhui4赘坠缀 zhun1谆 zhun3准 zhuo1捉拙桌 zhuo2卓茁酌啄灼浊
zi1兹咨资姿滋淄孜 zi3紫籽滓 zi4自渍字 zi5子 zong1鬃棕踪宗综 zong3总 zong4纵 zou1邹 zou3走 zou4奏揍 zu1租 zu2足卒族 zu3祖诅阻组 zuan1钻 zuan3纂
zui3嘴 zui4醉最罪 zun1尊遵 zuo2琢昨 zuo3左佐 zuo4做作坐座
"""


@cache
def readings() -> dict[str, str]:
    """Character -> pinyin with the tone as a digit: ``zhong1``. ``v`` stands for ü, as it is typed."""
    return {char: sound for sound, chars in _groups() for char in chars}


@cache
def sounding(toned: bool) -> dict[str, str]:
    """Pinyin -> the characters read so; ``toned`` tells the tones apart."""
    found: dict[str, str] = {}
    for sound, chars in _groups():
        key = sound if toned else sound[:-1]
        found[key] = found.get(key, "") + chars
    return found


def _groups() -> list[tuple[str, str]]:
    return re.findall(r"([a-z]+[1-5])(\S+)", READINGS)
